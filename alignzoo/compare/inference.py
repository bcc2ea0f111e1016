"""How a comparison decides: what counts as a run's score, which hypotheses are one family, and at which level.

A verdict and the interval beside it are the same thing: a difference is shown where its interval leaves out 0. All
intervals of a family hold together, with probability 1 - α at least (Bonferroni). There are two families. Pairs of
algorithms, of all tasks, are one. What is held against controls is the other, and it is gate-kept (Maurer and Bretz
2013): every algorithm on every task is a chain with an equal share of the level, which is tested against the start
first, and against the next control only when it was better than all controls before.

Who looks, adds seeds and looks again has more than one chance of finding what is not there. So the level is spent
(Lan and DeMets 1983): the look of number j has α_j = 6·α / (π²·j²), and all looks together, however many, have α.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignzoo.compare.statistics import LEVEL, Array, Crossed, Estimate, Kind

Row = Mapping[int, float]
"""A run's score on each prompt, by the prompt's number."""


def level_of(look: int) -> float:
    """What the look of this number, from 1, spends of the level."""
    return 6 * LEVEL / (math.pi * look) ** 2


def looks_of(former: Sequence[int], seeds: int) -> list[int]:
    """The numbers of seeds at which results were looked at, this one included; the same number is the same look."""
    return [*(each for each in former if each < seeds), seeds]


# --- runs that failed -------------------------------------------------------------------------------------------------


def counted(runs: Mapping[int, Row], start: Mapping[int, Row], seeds: Sequence[int]) -> dict[int, Row]:
    """A row for every seed, those of failed runs included: a run that failed has brought the worse of what the start
    has with its seed and the worst run of its algorithm that ended. Empty where no run ended."""
    if not runs:
        return {}
    worst = min(runs.values(), key=_mean)
    return {seed: runs[seed] if seed in runs else min(start.get(seed, worst), worst, key=_mean) for seed in seeds}


def _mean(row: Row) -> float:
    return sum(row.values()) / len(row) if row else math.inf


# --- one task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """The scores of everything compared on a task, by one figure."""

    labels: tuple[str, ...]
    values: Array
    """(labels, runs, prompts)."""
    share: bool
    """Whether they are shares of right answers, in [0, 1]."""

    def of(self, label: str) -> Array:
        """(runs, prompts) of one."""
        return np.asarray(self.values[self.labels.index(label)])

    @property
    def tells_runs_apart(self) -> bool:
        """Whether there are enough runs and prompts for an interval that speaks of new runs."""
        return min(self.values.shape[1:], default=0) > 1


def scores(rows: Mapping[str, Mapping[int, Row]], *, share: bool = False) -> Scores:
    """The table of the prompts that all runs have. `share`: it is known to be one; else where all are 0, 1, or ½ for a
    tie, as a start's preference for a pair is."""
    every = [row for runs in rows.values() for row in runs.values()]
    shared = sorted(set.intersection(*(set(row) for row in every))) if every else []
    values = np.array([[[row[p] for p in shared] for row in runs.values()] for runs in rows.values()], float)
    right_or_wrong = values.size > 0 and bool(np.isin(values, (0.0, 0.5, 1.0)).all())
    return Scores(tuple(rows), values, share or right_or_wrong)


def means(found: Scores, algorithms: Sequence[str]) -> Estimate:
    """The mean of each label; the variance between runs is shrunk towards that of the algorithms."""
    squares = Crossed(found.values).means()
    kind: Kind = "share" if found.share else "any"
    ours = [number for number, label in enumerate(found.labels) if label in algorithms]
    if len(ours) < 2:
        return squares.estimate(kind=kind)
    pooled = squares.runs[..., ours].mean(-1, keepdims=True)
    return squares.estimate(pooled, float(len(ours)), kind)


def all_pairs(n: int) -> tuple[list[int], list[int]]:
    """The numbers of both sides of every pair of n."""
    first, second = np.triu_indices(n, 1)
    return first.tolist(), second.tolist()


def among(values: Array, *, share: bool) -> Estimate:
    """Every pair of the algorithms (..., algorithms, runs, prompts); the mean over pairs of the variance between runs
    holds as much as n - 1 of them."""
    n = values.shape[-3]
    squares = Crossed(values).differences(*all_pairs(n))
    return squares.estimate(squares.runs.mean(-1, keepdims=True), float(n - 1), "difference" if share else "any")


def against(values: Array, control: Array, *, share: bool) -> Estimate:
    """Every algorithm less a control (..., runs, prompts). Differences to one control hang together: the mean of their
    variances holds as much as 4n/(n + 3) of them."""
    n = values.shape[-3]
    both = np.concatenate([values, control[..., None, :, :]], axis=-3)
    squares = Crossed(both).differences(list(range(n)), [n] * n)
    independent = 4 * n / (n + 3)
    return squares.estimate(squares.runs.mean(-1, keepdims=True), independent, "difference" if share else "any")


# --- families ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A difference, its interval at the level of its family, and its p-values."""

    difference: float
    low: float | None
    high: float | None
    """None where the two score alike in every answer: there is nothing to measure an error by."""
    p: float
    p_adjusted: float
    """p times the size of the family, at most 1: below the level of the look exactly where the interval leaves out
    0."""
    shown: bool


def verdict(estimate: Estimate, family: int, level: float) -> Verdict:
    """The verdict on a single estimate of a family of so many, all at `level` together."""
    if estimate.identical and estimate.kind == "any":
        return Verdict(0.0, None, None, 1.0, 1.0, False)
    low, high = map(float, estimate.at(level / family))
    p = estimate.p
    return Verdict(float(estimate.mean), low, high, p, min(1.0, family * p), low > 0 or high < 0)


def gates(verdicts: Sequence[Verdict]) -> Iterator[bool]:
    """Whether each verdict of a chain, in the order in which its controls are tested, is reached."""
    reached = True
    for each in verdicts:
        yield reached
        reached = reached and each.shown and each.difference > 0
