"""How well verdicts agree, and how sure that is: Cohen's κ, rank correlation, majorities, bootstrap intervals.

Verdicts on a pair are whole numbers, as PandaLM has them: 1 the first answer is better, 2 the second, 0 neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Verdicts: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

VERDICTS = 3
"""How many different verdicts there are: 0, 1 and 2."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """The number of pairs or answers."""


def kappa(a: Verdicts, b: Verdicts) -> float:
    """Cohen's κ = (p_o - p_e) / (1 - p_e): agreement beyond what two such raters reach by chance.

    p_o is the share of equal verdicts, p_e = Σ_v P_a(v)·P_b(v). Cohen 1960, Educational and Psychological Measurement
    20(1). Where both always say the same one thing p_e is 1 and κ undefined; then 0, as nothing beyond chance is shown.
    """
    table = np.bincount(a * VERDICTS + b, minlength=VERDICTS * VERDICTS).reshape(VERDICTS, VERDICTS) / len(a)
    observed = float(np.trace(table))
    expected = float(table.sum(1) @ table.sum(0))
    return (observed - expected) / (1 - expected) if expected < 1 else 0.0


def agreement(a: Verdicts, b: Verdicts) -> float:
    """The share of equal verdicts."""
    return float(np.mean(a == b))


def spearman(a: Floats, b: Floats) -> float:
    """The correlation of ranks, ties with their mean rank; 0 where one of the two never changes."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def majority(votes: Sequence[int]) -> int | None:
    """What more than half of them say; None where nothing is."""
    verdict, count = Counter(votes).most_common(1)[0]
    return verdict if 2 * count > len(votes) else None


def estimate(
    statistic: Callable[[NDArray[np.int64]], float], n: int, rng: np.random.Generator, *, resamples: int = 1000
) -> Estimate:
    """A statistic of n rows, given as indices, with the percentile interval of its bootstrap (Efron 1979)."""
    drawn = rng.integers(0, n, size=(resamples, n))
    low, high = np.quantile([statistic(rows) for rows in drawn], [0.025, 0.975])
    return Estimate(statistic(np.arange(n)), float(low), float(high), n)


def _ranks(values: Floats) -> Floats:
    """Places from 0 on; equal values share their mean place."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts + 1) / 2
    return means[place]
