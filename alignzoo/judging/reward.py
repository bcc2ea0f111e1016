"""Scores of a group from a judge's verdicts: of each answer by itself, or of pairs, by Bradley-Terry."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt

from alignzoo import functional as fn
from alignzoo.interfaces import Context, HasCosts, Judge, Policy
from alignzoo.judging.asking import OnError, Orders, Preference, Tally, ask, prefer
from alignzoo.lifecycle import live_of
from alignzoo.types import Group, Question, Score, Verdict

NOTES = 4
"""How many reasons a score's note tells."""


@dataclass(frozen=True)
class Criterion:
    """What a judge is asked by: a principle, a rubric, or nothing in particular."""

    text: str = ""
    name: str = ""
    weight: float = 1.0
    examples: tuple[tuple[Question, Verdict], ...] = ()


@dataclass(frozen=True)
class Asked:
    """A question about the answers `items` of a group, by one criterion."""

    group: int
    items: tuple[int, ...]
    criterion: Criterion
    share: float
    """How much the verdict counts; the shares of all criteria of one comparison sum to 1."""
    question: Question


@dataclass(frozen=True)
class JudgedReward:
    """The settings and the work that rewards by a judge share; a subclass says by which criteria."""

    judge: Judge
    """Who is asked."""
    mode: Literal["pairwise", "pointwise"] = "pairwise"
    """pairwise: which of two answers is better, over the pairs of a group; pointwise: how good each one is, 0 to 1."""
    orders: Orders = "both"
    """pairwise: show each pair in both orders, which cancels a leaning to one place; or in one, drawn by the seed."""
    pairs: Literal["all"] | Annotated[int, Ge(1)] = "all"
    """pairwise: how many pairs of a group are compared; a number draws them, a chain through all answers first."""
    clamp: tuple[float, float] = (0.0, 1.0)
    """pairwise: soft labels are kept within these; (0.4, 0.6) in Bai et al. 2022, section 4.1; (0, 1) is off."""
    ridge: Annotated[float, Gt(0)] = 0.1
    """pairwise: how strongly Bradley-Terry's scores are held near 0; a sure win over one rival is worth ±1.06."""
    on_error: OnError = "stop"
    """Where the judge cannot answer: stop the run; retry, then stop; drop-sample: a pointwise answer gets no score, a
    comparison does not count; drop-group: none of the group gets a score."""
    attempts: Annotated[int, Ge(1)] = 3
    """retry: how often a question is asked in all."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of what is drawn: pairs, orders, principles. The same group always draws the same."""

    def __post_init__(self) -> None:
        low, high = self.clamp
        if not 0 <= low <= 0.5 <= high <= 1:
            raise ValueError(f"clamp must be two numbers with 0 ≤ low ≤ 0.5 ≤ high ≤ 1, found {low:g} and {high:g}")

    def costs(self) -> Mapping[str, float]:
        """What the judge has cost, and how its verdicts fell."""
        spent = dict(self.judge.costs()) if isinstance(self.judge, HasCosts) else {}
        return spent | {f"judge/{kind}": float(number) for kind, number in self._tally.items()}

    def open(self, context: Context) -> Tally:
        """Begin to count verdicts."""
        return Tally(questions=0, abstained=0, errors=0)

    @property
    def _tally(self) -> Tally:
        found: Tally = live_of(self)
        return found

    def judged(
        self, groups: Sequence[Group], criteria: Sequence[Criterion], policy: Policy, *, drawn: int = 0
    ) -> list[tuple[Score, ...]]:
        """Scores by these criteria; with `drawn`, so many of them, drawn by weight for each comparison or group."""
        texts = [sorted({completion.text for completion in group.completions}) for group in groups]
        asked = [
            each
            for index, (group, answers) in enumerate(zip(groups, texts, strict=True))
            for each in self._plan(index, group, answers, criteria, drawn)
        ]
        verdicts = self._verdicts([each.question for each in asked], policy)
        by_group: list[list[tuple[Asked, Verdict]]] = [[] for _ in groups]
        for each, verdict in zip(asked, verdicts, strict=True):
            by_group[each.group].append((each, verdict))
        scores = []
        for group, answers, given in zip(groups, texts, by_group, strict=True):
            by_text = dict(zip(answers, self._scores(len(answers), len(group.completions), given), strict=True))
            scores.append(tuple(by_text[completion.text] for completion in group.completions))
        return scores

    def questions_by(self, criteria: int, prompts: int, completions: int) -> int:
        """How many questions `judged` asks by so many criteria about each comparison or answer; as `HasQuestions`."""
        if self.mode == "pointwise":
            return prompts * completions * criteria
        pairs = completions * (completions - 1) // 2
        asked = pairs if self.pairs == "all" else min(pairs, self.pairs)
        return prompts * asked * criteria * (2 if self.orders == "both" else 1)

    def _verdicts(self, questions: Sequence[Question], policy: Policy) -> Sequence[Verdict]:
        if self.mode == "pointwise":
            return ask(self.judge, questions, policy, on_error=self.on_error, attempts=self.attempts, tally=self._tally)
        return prefer(
            self.judge,
            questions,
            policy,
            orders=self.orders,
            seed=self.seed,
            on_error=self.on_error,
            attempts=self.attempts,
            tally=self._tally,
        )

    # --- what is asked --------------------------------------------------------------------------------------------

    def _plan(
        self, index: int, group: Group, answers: Sequence[str], criteria: Sequence[Criterion], drawn: int
    ) -> list[Asked]:
        """A group's questions. Equal answers are asked about once; draws depend on nothing but the group's text."""
        rng = random.Random(fn.derive(self.seed, "judged", repr(group.prompt.messages), *answers))
        pointwise = self.mode == "pointwise"
        items = [(i,) for i in range(len(answers))] if pointwise else self._pairs(len(answers), rng)
        chosen = _drawn(criteria, drawn, rng) if pointwise else ()
        plan = []
        for item in items:
            shares = chosen or _drawn(criteria, drawn, rng)
            for criterion, share in shares:
                question = Question(
                    prompt=group.prompt.messages,
                    answers=tuple(answers[i] for i in item),
                    criterion=criterion.text,
                    info=group.prompt.info,
                    name=criterion.name,
                    examples=criterion.examples,
                )
                plan.append(Asked(index, item, criterion, share, question))
        return plan

    def _pairs(self, n: int, rng: random.Random) -> list[tuple[int, ...]]:
        everything: list[tuple[int, ...]] = list(itertools.combinations(range(n), 2))
        if self.pairs == "all" or self.pairs >= len(everything):
            return everything
        order = rng.sample(range(n), n)
        chain: list[tuple[int, ...]] = [(min(pair), max(pair)) for pair in itertools.pairwise(order)]
        others = [pair for pair in everything if pair not in chain]
        return [*chain, *rng.sample(others, max(0, self.pairs - len(chain)))][: self.pairs]

    # --- what comes of it -----------------------------------------------------------------------------------------

    def _scores(self, n: int, completions: int, given: Sequence[tuple[Asked, Verdict]]) -> list[Score]:
        """One score for each of a group's n distinct answers."""
        errors = [verdict for _, verdict in given if verdict.kind == "error"]
        if errors and self.on_error == "drop-group":
            return [Score(None, note=f"dropped: {errors[0].note}")] * n
        if self.mode == "pointwise":
            return [_pointwise([pair for pair in given if pair[0].items == (i,)]) for i in range(n)]
        if n == 1 and completions > 1:
            return [Score(0.0, note="all answers are the same")]
        return self._pairwise(n, given)

    def _pairwise(self, n: int, given: Sequence[tuple[Asked, Verdict]]) -> list[Score]:
        low, high = self.clamp
        wins = torch.zeros(n, n, dtype=torch.float64)
        preferred: dict[str, list[list[float]]] = {}
        for asked, verdict in given:
            if verdict.value is None:
                continue
            i, j = asked.items
            p = min(max(verdict.value, low), high)
            wins[i, j] += asked.share * p
            wins[j, i] += asked.share * (1 - p)
            by_answer = preferred.setdefault(asked.criterion.name, [[] for _ in range(n)])
            by_answer[i].append(p)
            by_answer[j].append(1 - p)
        strengths = fn.bradley_terry(wins, self.ridge).tolist()
        compared = ((wins + wins.T).sum(1) > 0).tolist()
        orders = _orders([verdict for _, verdict in given])
        scores = []
        for i in range(n):
            told = _note(i, given)
            if not compared[i]:
                scores.append(Score(None, note=told or "there is nothing to compare it with"))
                continue
            parts = {name: fmean(by_answer[i]) for name, by_answer in preferred.items() if name and by_answer[i]}
            scores.append(Score(strengths[i], parts=parts | orders, note=told))
        return scores


def _drawn(criteria: Sequence[Criterion], drawn: int, rng: random.Random) -> list[tuple[Criterion, float]]:
    """Criteria with their shares: all by their weights, or some, drawn by their weights, with equal shares."""
    if not drawn or drawn >= len(criteria):
        total = sum(criterion.weight for criterion in criteria)
        return [(criterion, criterion.weight / total) for criterion in criteria]
    # Efraimidis and Spirakis 2006: the largest of u^(1/w) are a weighted draw without replacement.
    order = sorted(criteria, key=lambda criterion: rng.random() ** (1 / criterion.weight), reverse=True)
    return [(criterion, 1 / drawn) for criterion in order[:drawn]]


def _pointwise(given: Sequence[tuple[Asked, Verdict]]) -> Score:
    """The mean of an answer's values by their shares; no score after an error, or where all abstain."""
    told = _note(given[0][0].items[0], given)
    valued = [(asked, verdict.value) for asked, verdict in given if verdict.value is not None]
    if not valued or any(verdict.kind == "error" for _, verdict in given):
        return Score(None, note=told)
    total = sum(asked.share for asked, _ in valued)
    parts = {asked.criterion.name: value for asked, value in valued if asked.criterion.name}
    return Score(sum(asked.share * value for asked, value in valued) / total, parts=parts, note=told)


def _orders(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """How the group's pairs fared in both orders: the mean leaning to the first place, the share that agrees."""
    both = [each for each in verdicts if isinstance(each, Preference) and each.leaning is not None]
    if not both:
        return {}
    return {
        "position_bias": fmean(each.leaning or 0.0 for each in both),
        "consistent": fmean(float(bool(each.consistent)) for each in both),
    }


def _note(i: int, given: Sequence[tuple[Asked, Verdict]]) -> str:
    """The judge's reasons about an answer."""
    told = []
    for asked, verdict in given:
        if i in asked.items and (verdict.note or verdict.kind != "value"):
            value = verdict.value if i == asked.items[0] or verdict.value is None else 1 - verdict.value
            outcome = verdict.kind if value is None else f"{value:.2f}"
            told.append(" ".join(filter(None, [asked.criterion.name, outcome, verdict.note])))
    more = [f"and {len(told) - NOTES} more"] if len(told) > NOTES else []
    return "; ".join([*told[:NOTES], *more])
