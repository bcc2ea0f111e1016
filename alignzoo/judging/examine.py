"""What a judge is worth before it may train anything: is it consistent, does length impress it, do people agree?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from alignzoo import functional as fn
from alignzoo.interfaces import Judge
from alignzoo.judging.agreement import Estimate, Verdicts, agreement, estimate, kappa, spearman
from alignzoo.judging.asking import ask, swapped
from alignzoo.judging.pairs import Pair
from alignzoo.lifecycle import taking_over
from alignzoo.types import Question

FIGURES = {
    "unanswered": "pairs abstained from or failed",
    "consistent": "same winner in both orders",
    "first": "wins of the answer shown first",
    "repeatable": "same verdict when asked again",
    "length": "correlation with length: judge",
    "length_labels": "correlation with length: labels",
    "padded": "wins of an answer with padding over itself",
}
"""What is measured besides agreement, and how it is called."""

MAJORITY = "majority"

PADDING = (
    "That is what there is to say about it, and it has been said here as it is. To put it in other words: all of the "
    "above is the answer to what was asked, and it stands as it was given."
)
"""Words that add nothing, for the paired probe of length bias."""

Values = Sequence[float | None]
"""A judge's answer to each question; None where it abstained or failed."""

Rater = tuple[str, Sequence[int | None]]
"""A name, and a verdict on each pair: 1, 2 or 0; None where there is none."""

AS_P = {1: 1.0, 2: 0.0, 0: 0.5}
"""A verdict as the probability that the first answer is better."""


@dataclass(frozen=True)
class Agreed:
    """How well two raters agree."""

    first: str
    second: str
    agreement: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class Examination:
    """What was found."""

    pairs: int
    figures: Mapping[str, Estimate]
    """By the names of `FIGURES`, those that could be measured."""
    unmeasured: Mapping[str, str]
    """The others, and why."""
    judged: tuple[Agreed, ...]
    """The judge with each rater, and with their majority."""
    raters: tuple[Agreed, ...]
    """The raters with one another: what a judge can be expected to reach."""
    points: tuple[tuple[int, float, int | None], ...]
    """For each pair that was answered: by how many words the first answer is longer, the judge's probability that it is
    better, and what most raters say."""


@dataclass(frozen=True)
class Examiner:
    """How a judge is examined."""

    criterion: str = ""
    """What it is asked by; empty: overall quality."""
    name: str = ""
    """The principle's name, for judges that are programs."""
    repeats: Annotated[int, Ge(0)] = 1
    """How often every question is asked again."""
    probes: Annotated[int, Ge(0)] = 200
    """How many answers are judged against themselves with padding."""
    padding: str = PADDING
    """What is added to them, until they are half as long again."""
    resamples: Annotated[int, Ge(10)] = 1000
    """Bootstrap resamples for the intervals."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the bootstrap."""

    def examine(self, judge: Judge, pairs: Sequence[Pair]) -> Examination:
        """Ask about every pair in both orders, again, and with padding; compare with what people said."""
        questions = [pair.question(self.criterion, self.name) for pair in pairs]
        forth, back = self._both_orders(judge, questions)
        both = [_mean(a, None if b is None else 1 - b) for a, b in zip(forth, back, strict=True)]
        points = tuple((pair.longer, p, pair.truth) for pair, p in zip(pairs, both, strict=True) if p is not None)
        figures = {
            "unanswered": self._share([float(p is None) for p in both], "unanswered"),
            "consistent": self._share([float(_winner(a) == _winner(1 - b)) for a, b in _twice(forth, back)], "order"),
            "first": self._share([(_won(a) + _won(b)) / 2 for a, b in _twice(forth, back)], "first"),
            "repeatable": self._share(self._repeated(judge, questions, forth), "again"),
            "length": self._correlation(points),
            "length_labels": self._correlation([(d, AS_P[t], t) for d, _, t in points if t is not None]),
            "padded": self._share(self._probed(judge, questions), "padded"),
        }
        verdicts = [None if p is None else _winner(p) for p in both]
        votes = {name: [pair.votes.get(name) for pair in pairs] for name in _raters(pairs)}
        against = votes | ({MAJORITY: [pair.truth for pair in pairs]} if len(votes) > 1 else {})
        return Examination(
            pairs=len(pairs),
            figures={name: figure for name, figure in figures.items() if figure is not None},
            unmeasured={name: _why(judge) for name, figure in figures.items() if figure is None},
            judged=self._agreed([(("judge", verdicts), given) for given in against.items()]),
            raters=self._agreed(list(itertools.combinations(votes.items(), 2))),
            points=points,
        )

    def _both_orders(self, judge: Judge, questions: Sequence[Question]) -> tuple[Values, Values]:
        """Every pair as it is, and turned round, of which nothing is recorded."""
        if _replays(judge):
            return _ask(judge, questions), [None] * len(questions)
        values = _ask(judge, [*questions, *map(swapped, questions)])
        return values[: len(questions)], values[len(questions) :]

    def _repeated(self, judge: Judge, questions: Sequence[Question], forth: Values) -> list[float]:
        """1 for each question that gets the same verdict again, else 0."""
        if _replays(judge):
            return []
        others = [_ask(_another(judge, number + 1), questions) for number in range(self.repeats)]
        return [float(_winner(a) == _winner(b)) for other in others for a, b in _twice(forth, other)]

    def _probed(self, judge: Judge, questions: Sequence[Question]) -> list[float]:
        """1 for each answer that loses to itself with padding, 0.5 for a tie: the mean of both orders."""
        probes = [
            replace(
                question, answers=(padded(question.answers[number % 2], self.padding), question.answers[number % 2])
            )
            for number, question in enumerate(questions)
            if question.answers[number % 2].strip()
        ]
        forth, back = self._both_orders(judge, probes[: self.probes])
        return [_won((a + 1 - b) / 2) for a, b in _twice(forth, back)]

    def _share(self, values: Sequence[float], use: str) -> Estimate | None:
        if not values:
            return None
        column = np.array(values)
        return estimate(lambda rows: float(column[rows].mean()), len(column), self._rng(use), resamples=self.resamples)

    def _correlation(self, points: Sequence[tuple[int, float, Any]]) -> Estimate | None:
        if len(points) < 2:
            return None
        longer, better = (np.array([point[i] for point in points], dtype=float) for i in (0, 1))
        return estimate(
            lambda rows: spearman(longer[rows], better[rows]),
            len(points),
            self._rng("length"),
            resamples=self.resamples,
        )

    def _agreed(self, couples: Sequence[tuple[Rater, Rater]]) -> tuple[Agreed, ...]:
        """How well the two of each couple agree, of the pairs on which both have a verdict."""
        found = []
        for (first, a), (second, b) in couples:
            verdicts = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            if verdicts:
                x, y = np.array(verdicts, dtype=np.int64).T
                alike, beyond = (self._of_two(f, x, y, first, second) for f in (agreement, kappa))
                found.append(Agreed(first, second, alike, beyond))
        return tuple(found)

    def _of_two(self, figure: Callable[[Verdicts, Verdicts], float], a: Verdicts, b: Verdicts, *uses: str) -> Estimate:
        return estimate(lambda rows: figure(a[rows], b[rows]), len(a), self._rng(*uses), resamples=self.resamples)

    def _rng(self, *uses: str) -> np.random.Generator:
        return np.random.default_rng(fn.derive(self.seed, *uses))


def padded(answer: str, padding: str) -> str:
    """The same answer, half as long again by words that add nothing."""
    words, longer = len(answer.split()), answer
    while len(longer.split()) < 1.5 * words:
        longer = f"{longer.rstrip()} {padding}"
    return longer


def _ask(judge: Judge, questions: Sequence[Question]) -> Values:
    return [verdict.value for verdict in ask(judge, questions, None, on_error="drop-sample")]


def _twice(a: Values, b: Values) -> list[tuple[float, float]]:
    """Where both have a value."""
    return [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]


def _mean(*values: float | None) -> float | None:
    given = [value for value in values if value is not None]
    return sum(given) / len(given) if given else None


def _winner(p: float) -> int:
    """1 the first, 2 the second, 0 neither."""
    return 1 if p > 0.5 else 2 if p < 0.5 else 0


def _won(p: float) -> float:
    """1 for a win of the first, 0.5 for a tie."""
    return AS_P[_winner(p)]


def _raters(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in pair.votes))


def _replays(judge: Judge) -> bool:
    return bool(getattr(judge, "replays", False))


def _another(judge: Judge, number: int) -> Judge:
    """The same judge, asked anew: with other dice where it has a `seed`, and without its `cache` where it has one."""
    if not is_dataclass(judge) or isinstance(judge, type):
        return judge
    known = {f.name: getattr(judge, f.name) for f in fields(judge)}
    changes = {"seed": known["seed"] + number} if "seed" in known else {}
    return taking_over(replace(judge, **changes | ({"cache": "off"} if "cache" in known else {})), judge)


def _why(judge: Judge) -> str:
    """Why a figure could not be had."""
    return "its verdicts are recorded" if _replays(judge) else "too few answers, or it was not asked for"
