"""From votes to labels: several raters' verdicts on a prompt's answers become one score for each answer."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from alignzoo import functional as fn
from alignzoo.errors import DataError, did_you_mean
from alignzoo.types import Text
from alignzoo_human.items import Item, written
from alignzoo_human.raters import shares
from alignzoo_human.votes import Kind, Vote

How: TypeAlias = Literal["majority", "soft"] | str
"""majority: an answer is above another where more raters say so than the contrary; soft: the share of raters; quality:
how probable it is by Dawid and Skene's model, in which a rater counts by how far their votes tell what is true; or
"rater=NAME", that rater alone."""

SOFT = ("soft", "quality")
"""What gives labels that are uncertain."""

RIDGE = 0.01
"""How strongly Bradley-Terry's strengths are held near 0: so little that who beat another one stays above it."""

FEWEST = 3
"""Raters without whom nobody can tell who of them is right."""

Answered: TypeAlias = tuple[Vote, Mapping[str, Any]]


@dataclass
class Labelled:
    """A prompt's answers and what people together say of them."""

    prompt: Text
    answers: list[Text]
    preferred: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """For i < j: of each rater who compared the two 1 where i is better, 0 where j is, 0.5 for a tie."""
    grades: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Each answer's grades."""
    raters: dict[tuple[int, ...], list[str]] = field(default_factory=lambda: defaultdict(list))
    """Who gave each of them: by two answers for `preferred`, by one for `grades`."""
    expected: dict[tuple[int, ...], float] = field(default_factory=dict)
    """By the same, what is expected to be true when raters count by their quality."""
    votes: dict[str, float] = field(default_factory=dict)
    """Each rater's verdict on a pair, as `preferred` has it."""
    bad: list[str] = field(default_factory=list)
    """Raters who called both answers of a pair bad."""
    best: float = 5
    """The best grade there is."""
    reasons: list[dict[str, Any]] = field(default_factory=list)
    """Why, rater by rater, in the order of `answers`."""

    def share(self, i: int, j: int, how: How) -> float | None:
        """How much i is better than j, 1 wholly; None where nobody compared them."""
        low, high = sorted((i, j))
        verdicts = self.preferred.get((low, high))
        if not verdicts and self.grades.get(i) and self.grades.get(j):
            a, b = self.grade(i, how), self.grade(j, how)
            return 0.5 if a == b else float(a > b)
        if not verdicts:
            return None
        mean = self.expected[low, high] if how == "quality" else statistics.fmean(verdicts)
        if how == "majority":
            mean = 0.5 if abs(mean - 0.5) < 1e-9 else float(mean > 0.5)
        return mean if i == low else 1 - mean

    def grade(self, i: int, how: How) -> float:
        """An answer's grade: the raters' median, or their mean where labels are soft."""
        if how == "quality":
            return self.expected[i,]
        return statistics.median(self.grades[i]) if how == "majority" else statistics.fmean(self.grades[i])

    @property
    def graded(self) -> bool:
        """Whether all answers have grades."""
        return all(self.grades.get(i) for i in range(len(self.answers)))

    def scores(self, how: How) -> list[float] | None:
        """A score each, higher is better: the grade; or the mean over the others of how much it is better than they.
        Ranks of answers of which every two were compared are kept so; of two that nobody compared, Bradley-Terry's
        strengths of what was compared say which is likely to be better. None where an answer was compared with none."""
        n = len(self.answers)
        if self.graded:
            return [self.grade(i, how) for i in range(n)]
        every = itertools.permutations(range(n), 2)
        known = {(i, j): s for i, j in every if (s := self.share(i, j, how)) is not None}
        if len({i for i, _ in known}) < n:
            return None
        likely = _filled(known, n) if len(known) < n * (n - 1) else known
        return [round(statistics.fmean(likely[i, j] for j in range(n) if j != i), 6) for i in range(n)]

    def connected(self, how: How) -> bool:
        """Whether any two answers were compared, or are graded, or others that lead from the one to the other."""
        reached, new = set[int](), {0}
        while new:
            reached |= new
            new = {j for i, j, _ in self._both_ways(how) if i in reached} - reached
        return len(reached) == len(self.answers)

    def _both_ways(self, how: How) -> list[tuple[int, int, float]]:
        return [each for i, j, s in self.pairs(how) for each in ((i, j, s), (j, i, 1 - s))]

    def pairs(self, how: How) -> list[tuple[int, int, float]]:
        """Each two answers that were compared, the better one first, with how much better it is: 0.5 is a tie."""
        found = []
        for i, j in itertools.combinations(range(len(self.answers)), 2):
            share = self.share(i, j, how)
            if share is not None:
                found.append((i, j, share) if share >= 0.5 else (j, i, 1 - share))
        return found


def _filled(known: Mapping[tuple[int, int], float], n: int) -> dict[tuple[int, int], float]:
    """How much each of n answers is better than each other one: what was said, or what follows from it."""
    wins = torch.zeros(n, n, dtype=torch.float64)
    for (i, j), share in known.items():
        wins[i, j] = share
    strengths = fn.bradley_terry(wins, RIDGE)
    likely = torch.sigmoid(strengths[:, None] - strengths)
    return {(i, j): known.get((i, j), float(likely[i, j])) for i, j in itertools.permutations(range(n), 2)}


def labelled(
    items: Mapping[str, Item], answered: Sequence[Answered], how: How = "majority", *, best: float = 5
) -> list[Labelled]:
    """The prompts that somebody voted on. Votes on tests and repetitions train nothing, and are left out."""
    raters = sorted({vote.rater for vote, _ in answered})
    only = how.removeprefix("rater=") if how.startswith("rater=") else None
    if only is not None and only not in raters:
        raise DataError(f"the store has no votes of {only!r}. {did_you_mean(only, raters)}")
    if only is None and how not in ("majority", *SOFT):
        raise DataError(f"--resolve: {how!r} is unknown. Known: majority, {', '.join(SOFT)}, rater=NAME")
    if how == "quality" and len(raters) < FEWEST:
        raise DataError(
            f"--resolve quality: how good raters are shows in what {FEWEST} or more of them say of the same questions, "
            f"and here are votes of {', '.join(raters) or 'nobody'}: take --resolve soft"
        )
    found: dict[str, Labelled] = {}
    for vote, more in answered:
        if vote.gold or vote.repeat or (only is not None and vote.rater != only):
            continue
        item = items[vote.item]
        key = written([item.prompt, item.criterion])
        _take(found.setdefault(key, Labelled(item.prompt, [], best=best)), item, vote, more)
    if how == "quality":
        _weigh(list(found.values()))
    return list(found.values())


def _weigh(found: Sequence[Labelled]) -> None:
    """Work out how good each rater is, over all questions, and what is probably true by that.

    Every two answers of a ranking are taken as a question of their own.
    """
    kinds: tuple[Kind, Kind] = ("pair", "grade")
    votes: dict[Kind, list[Vote]] = {kind: [] for kind in kinds}
    places: dict[str, tuple[Labelled, tuple[int, ...]]] = {}
    for number, each in enumerate(found):
        for place, who in each.raters.items():
            kind, said = ("pair", each.preferred[place]) if len(place) == 2 else ("grade", each.grades[place[0]])
            name = f"{number}: {place}"
            places[name] = each, place
            votes[kind] += [
                Vote(name, rater, kind, value, 0.0, None, False, False, float(at))
                for at, (rater, value) in enumerate(zip(who, said, strict=True))
            ]
    for kind in kinds:
        for name, by in shares(votes[kind], kind, by_quality=True).items() if votes[kind] else ():
            each, place = places[name]
            each.expected[place] = sum(value * probability for value, probability in by.items())


def _take(each: Labelled, item: Item, vote: Vote, more: Mapping[str, Any]) -> None:
    """Add a vote to what is known of its prompt."""
    for answer in item.answers:
        if answer not in each.answers:
            each.answers.append(answer)
    places = [each.answers.index(answer) for answer in item.answers]
    reasons = dict(more.get("reasons") or {})
    if reasons.pop("bad", False):
        each.bad.append(vote.rater)
    _note(each, places, vote, reasons, str(more.get("comment") or ""))
    if vote.kind == "grade" and not isinstance(vote.value, tuple):
        each.grades[places[0]].append(vote.value)
        each.raters[places[0],].append(vote.rater)
        return
    ranks = vote.value if isinstance(vote.value, tuple) else (1 - vote.value, vote.value)
    for a, b in itertools.combinations(range(len(places)), 2):
        better = 0.5 if ranks[a] == ranks[b] else float(ranks[a] < ranks[b])
        i, j = places[a], places[b]
        each.preferred[min(i, j), max(i, j)].append(better if i < j else 1 - better)
        each.raters[min(i, j), max(i, j)].append(vote.rater)
    if vote.kind == "pair" and not isinstance(vote.value, tuple):
        each.votes[vote.rater] = vote.value if places[0] < places[1] else 1 - vote.value


def _note(each: Labelled, places: Sequence[int], vote: Vote, reasons: Mapping[str, Any], comment: str) -> None:
    by_answer = {str(place): r for place, r in zip(places, reasons.get("answers") or [], strict=False) if r}
    said = {"all": reasons.get("all") or {}, "answers": by_answer, "comment": comment}
    if any(said.values()):
        each.reasons.append({"rater": vote.rater} | {name: value for name, value in said.items() if value})
