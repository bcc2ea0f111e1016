"""How far raters agree with one another, and what they disagree on most.

Pure functions of votes. Gold questions are easier than others, and a repeat is no second opinion, so that both are left
out here. Every figure has a 95 % interval, or is None where there is nothing to tell.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from alignzoo import functional as fn
from alignzoo.judging.agreement import Estimate, Level, estimate, kappa, krippendorff
from alignzoo_human.votes import Kind, Value, Vote

KINDS: tuple[Kind, ...] = ("pair", "ranking", "grade")
LEVELS: Mapping[Kind, tuple[Level, ...]] = {
    "pair": ("nominal", "ordinal"),
    "ranking": ("nominal", "ordinal"),
    "grade": ("ordinal", "interval"),
}
"""What α is told of each kind; of rankings, of all pairs of answers."""

MISSED = 0.025
"""How probable it is that an interval lies wholly on one side of the truth."""


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's α of the votes of one kind."""

    kind: Kind
    level: Level
    alpha: Estimate | None
    """Its `n` is the number of items with votes of two raters or more. None where α is undefined."""


@dataclass(frozen=True)
class Kappa:
    """Cohen's κ of two raters, on the items that both have voted on."""

    first: str
    second: str
    kind: Kind
    kappa: Estimate | None
    """None where it is undefined, as both always say the same one thing: chance would have them agree as often."""
    items: int
    """How many both have voted on."""


@dataclass(frozen=True)
class Disputed:
    """An item that raters see differently."""

    item: str
    kind: Kind
    disagreement: float
    """The mean over pairs of raters, 0 to 1: the share of pairs of answers that two raters order differently; of
    grades, their distance as a part of the widest in the data."""
    votes: tuple[tuple[str, Value], ...]
    """Raters by name, with what they say."""


# --- votes of one kind ------------------------------------------------------------------------------------------


def opinions(votes: Sequence[Vote], kind: Kind) -> dict[str, dict[str, Value]]:
    """What each rater says of each item, by item and then rater: votes that are no gold question and no repeat.

    Of several votes of one rater on an item the latest counts.
    """
    found: dict[str, dict[str, Value]] = defaultdict(dict)
    for vote in sorted(votes, key=lambda vote: vote.at):
        if vote.kind == kind and not (vote.gold or vote.repeat):
            found[vote.item][vote.rater] = vote.value
    return dict(found)


def preferences(value: Value) -> list[float]:
    """A verdict as numbers: of a ranking, for each pair of answers 1 the first is better, 0 the second, 0.5 a tie."""
    if not isinstance(value, tuple):
        return [float(value)]
    return [0.5 * (1 + (b > a) - (b < a)) for a, b in itertools.combinations(value, 2)]


def likeness(a: Value, b: Value) -> float:
    """1 where two verdicts are the same; of rankings, the share of pairs of answers that have the same order."""
    return fmean(float(x == y) for x, y in zip(preferences(a), preferences(b), strict=True))


def outcome(value: Value) -> tuple[int, int] | None:
    """Which answer won and which lost, of a ranking the best and the worst; None for a tie."""
    if isinstance(value, tuple):
        best, worst = value.index(min(value)), value.index(max(value))
        return None if best == worst else (best, worst)
    return None if value == 0.5 else (0, 1) if value > 0.5 else (1, 0)


# --- raters together --------------------------------------------------------------------------------------------


def alpha(votes: Sequence[Vote], kind: Kind, level: Level, *, seed: int = 0, resamples: int = 1000) -> Estimate | None:
    """Krippendorff's α of the votes of one kind, with the percentile interval of a bootstrap over items.

    A ranking counts as all its pairs of answers, which are drawn together. Where all votes on every item are alike a
    bootstrap has nothing to draw. Then the lower end is what α would be if the share q of items that may still differ
    unseen, 1 - q = 0.025^(1/items), differed as much as any two votes can.
    """
    counts, values, owners = _units(opinions(votes, kind))
    if not len(counts):
        return None
    items = int(owners[-1]) + 1
    value = krippendorff(counts, values, level)
    if np.isnan(value):
        return None
    if value == 1:
        return Estimate(1.0, _unseen(counts, values, level, items), 1.0, items)
    rng = np.random.default_rng(fn.derive(seed, "alpha", kind, level))
    drawn = rng.multinomial(items, np.full(items, 1 / items), size=resamples)
    found = [krippendorff(counts, values, level, weights[owners].astype(float)) for weights in drawn]
    low, high = np.nanquantile(found, [MISSED, 1 - MISSED])
    return Estimate(value, float(low), float(high), items)


def kappas(votes: Sequence[Vote], kind: Kind, *, seed: int = 0, resamples: int = 1000) -> list[Kappa]:
    """Cohen's κ of every two raters with two common items or more, with a bootstrap interval over these."""
    said = opinions(votes, kind)
    raters = sorted({rater for item in said.values() for rater in item})
    code = {value: i for i, value in enumerate(sorted({x for item in said.values() for x in _flat(item)}))}
    found = []
    for first, second in itertools.combinations(raters, 2):
        both = [(item[first], item[second]) for item in said.values() if first in item and second in item]
        if len(both) > 1:
            columns = [[np.array([code[x] for x in preferences(v)]) for v in side] for side in zip(*both, strict=True)]
            rng = np.random.default_rng(fn.derive(seed, "kappa", kind, first, second))
            one_thing = len(np.unique(np.concatenate([each for side in columns for each in side]))) == 1
            known = None if one_thing else _kappa(columns[0], columns[1], rng, resamples)
            found.append(Kappa(first, second, kind, known, len(both)))
    return found


def disputed(votes: Sequence[Vote]) -> list[Disputed]:
    """The items on which raters disagree, the worst first; of equals those with more votes."""
    found = []
    for kind in KINDS:
        said = opinions(votes, kind)
        every = [x for item in said.values() for x in _flat(item)] if kind == "grade" else [0.0, 1.0]
        width = (max(every) - min(every) if every else 0.0) or 1.0
        for item, by_rater in said.items():
            if len(by_rater) > 1:
                apart = fmean(_distance(a, b, kind, width) for a, b in itertools.combinations(by_rater.values(), 2))
                if apart > 0:
                    found.append(Disputed(item, kind, apart, tuple(sorted(by_rater.items(), key=lambda each: each[0]))))
    return sorted(found, key=lambda each: (-each.disagreement, -len(each.votes), each.item))


def _distance(a: Value, b: Value, kind: Kind, width: float) -> float:
    if kind == "grade" and not isinstance(a, tuple) and not isinstance(b, tuple):
        return abs(a - b) / width
    return 1 - likeness(a, b)


def _flat(by_rater: Mapping[str, Value]) -> list[float]:
    return [x for value in by_rater.values() for x in preferences(value)]


def _units(
    said: Mapping[str, Mapping[str, Value]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int_]]:
    """How many raters gave each value to each unit, the values, and which item each unit belongs to, counted from 0.

    A unit is an item, or a pair of a ranking's answers; items with one rater are left out.
    """
    rated = [list(item.values()) for item in said.values() if len(item) > 1]
    units = [(owner, unit) for owner, item in enumerate(rated) for unit in zip(*map(preferences, item), strict=True)]
    values = np.unique([x for _, unit in units for x in unit]) if units else np.zeros(0)
    counts = np.zeros((len(units), len(values)))
    for row, (_, unit) in enumerate(units):
        np.add.at(counts[row], np.searchsorted(values, unit), 1)
    return counts, values, np.array([owner for owner, _ in units], dtype=np.int_)


def _unseen(counts: NDArray[np.float64], values: NDArray[np.float64], level: Level, items: int) -> float:
    """The lower end of α's interval where no two votes differ, 1 - q·max δ² / D_e: see `alpha`."""
    marginal = counts.sum(0)
    x = np.cumsum(marginal) - marginal / 2 if level == "ordinal" else values
    apart = (x[:, None] != x).astype(float) if level == "nominal" else (x[:, None] - x) ** 2
    expected = float(marginal @ apart @ marginal / (marginal.sum() * (marginal.sum() - 1)))
    unseen: float = 1 - MISSED ** (1 / items)
    return max(-1.0, 1 - unseen * float(apart.max()) / expected)


def _kappa(
    a: Sequence[NDArray[np.int_]], b: Sequence[NDArray[np.int_]], rng: np.random.Generator, resamples: int
) -> Estimate:
    def of(items: NDArray[np.int64]) -> float:
        return kappa(np.concatenate([a[i] for i in items]), np.concatenate([b[i] for i in items]))

    found = estimate(of, len(a), rng, resamples=resamples)
    if found.value < 1:
        return found
    table = np.bincount(np.concatenate(a)) / sum(map(len, a))
    return Estimate(1.0, max(-1.0, 1 - (1 - MISSED ** (1 / len(a))) / float(1 - table @ table)), 1.0, len(a))
