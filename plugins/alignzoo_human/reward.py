"""Reward `human`: people rank the answers of a group, or grade them, and training waits for what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le

from alignzoo import Group, Policy, RewardSource, Score, live_of
from alignzoo import functional as fn
from alignzoo_human.desk import Answer, AskingPeople, Desk, Why
from alignzoo_human.items import Item, draw, written
from alignzoo_human.sources import like


@dataclass(frozen=True)
class HumanReward(AskingPeople):
    """People, who are asked in a browser to rank the answers of each group, best first, or to grade them.

    The scores are Bradley and Terry's strengths of what was ranked above what, over all raters, a tie counting half to
    both; or the mean grade, from 0 to 1. What a person has said of the same answers is never asked again, so that a
    resumed run asks nothing twice. Equal answers are one. Where `ask` is less than the groups of a step, those are
    asked about that are the most informative: of whose order `by`, a reward model say, is the least sure,
    Σ p·(1 - p) over the pairs with p = σ(sᵢ - sⱼ), the uncertainty of Christiano et al. 2017 (arXiv:1706.03741) section
    2.2.4 for one model; theirs is an ensemble's variance.
    """

    mode: Literal["ranking", "grade"] = "ranking"
    """ranking: the order of a group's answers, of two which is better; grade: each answer by itself."""
    ask: Annotated[int, Ge(0)] = 0
    """How many groups of a step, in each process, people are asked about; the others get no score. 0: all."""
    by: RewardSource | None = None
    """Whose doubt says which groups are the most informative; none: they are drawn at random."""
    random_share: Annotated[float, Ge(0), Le(1)] = 0.2
    """The share of `ask` that is drawn at random in any case, so that estimates can be unbiased."""
    ridge: Annotated[float, Gt(0)] = 0.1
    """How strongly Bradley-Terry's strengths are held near 0."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of what is drawn. The same groups always draw the same."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        """Scores, when people have answered."""
        desk: Desk = live_of(self)
        picked = self._picked(groups, policy)
        asked = {number: self._items(groups[number]) for number in picked}
        why = {item.key: picked[number] for number, items in asked.items() for item in items}
        found = desk.ask([item for items in asked.values() for item in items], why) if why else {}
        return [
            self._scores(group, [found[item.key] for item in asked[number]], desk.store.settings.grades)
            if number in picked
            else tuple(Score(None, note="nobody was asked") for _ in group.completions)
            for number, group in enumerate(groups)
        ]

    # --- what is asked --------------------------------------------------------------------------------------------

    def _items(self, group: Group) -> list[Item]:
        """A group's questions, about each different answer once; none where there is nothing to compare."""
        texts = [like(group.prompt.messages, text) for text in sorted({each.text for each in group.completions})]
        if self.mode == "grade":
            return [Item.made("grade", group.prompt.messages, [text]) for text in texts]
        if len(texts) < 2:
            return []
        return [Item.made("pair" if len(texts) == 2 else "ranking", group.prompt.messages, texts)]

    def _picked(self, groups: Sequence[Group], policy: Policy) -> dict[int, Why]:
        """The groups that people are asked about, and why."""
        if not self.ask or self.ask >= len(groups):
            return {number: Why() for number in range(len(groups))}
        keys = [written([group.prompt.messages, sorted({each.text for each in group.completions})]) for group in groups]
        drawn = sorted(range(len(groups)), key=lambda number: draw(self.seed, "asked", keys[number]))
        if self.by is None:
            return {number: Why(0.0, "random", self.ask / len(groups)) for number in drawn[: self.ask]}
        n_random = math.ceil(self.random_share * self.ask)
        picked = {number: Why(0.0, "random", n_random / len(groups)) for number in drawn[:n_random]}
        doubts = [doubt(scores) for scores in self.by.score(groups, policy)]
        rest = sorted((number for number in drawn[n_random:]), key=lambda number: -doubts[number])
        return picked | {number: Why(doubts[number], "uncertain") for number in rest[: self.ask - n_random]}

    # --- what comes of it -----------------------------------------------------------------------------------------

    def _scores(self, group: Group, answers: Sequence[Answer], grades: int) -> tuple[Score, ...]:
        texts = sorted({each.text for each in group.completions})
        if self.mode == "grade":
            by_text = dict(zip(texts, (_graded(answer, grades) for answer in answers), strict=True))
        elif not answers:
            by_text = dict.fromkeys(texts, Score(0.0, note="all answers are the same"))
        else:
            of_item = dict(zip(map(written, answers[0].item.answers), self._ranked(answers[0]), strict=True))
            by_text = {text: of_item[written(like(group.prompt.messages, text))] for text in texts}
        return tuple(by_text[each.text] for each in group.completions)

    def _ranked(self, answer: Answer) -> list[Score]:
        """The strengths of an item's answers, in its order."""
        n, note = len(answer.item.answers), answer.note
        if not answer.votes:
            return [Score(None, note=note or "nobody answered")] * n
        wins = torch.zeros(n, n, dtype=torch.float64)
        for vote, _ in answer.votes:
            ranks = vote.value if isinstance(vote.value, tuple) else (1 - vote.value, vote.value)
            for i, j in itertools.permutations(range(n), 2):
                wins[i, j] += (0.5 if ranks[i] == ranks[j] else float(ranks[i] < ranks[j])) / len(answer.votes)
        return [Score(strength, note=note) for strength in fn.bradley_terry(wins, self.ridge).tolist()]


def _graded(answer: Answer, grades: int) -> Score:
    values = [vote.value for vote, _ in answer.votes if not isinstance(vote.value, tuple)]
    if not values:
        return Score(None, note=answer.note or "nobody answered")
    return Score((fmean(values) - 1) / (grades - 1), note=answer.note)


def doubt(scores: Sequence[Score]) -> float:
    """How unsure scores are of an order: the mean of p·(1 - p) over the pairs, p = σ(sᵢ - sⱼ); 0 for one answer."""
    known = [score.value for score in scores if score.value is not None]
    pairs = [1 / (1 + math.exp(min(abs(a - b), 700.0))) for a, b in itertools.combinations(known, 2)]
    return fmean(p * (1 - p) for p in pairs) if pairs else 0.0
