"""How well verdicts agree, and how sure that is: Cohen's κ, Krippendorff's α, rank correlation, majorities, intervals.

Verdicts on a pair are whole numbers, as PandaLM has them: 1 the first answer is better, 2 the second, 0 neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Verdicts: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

Level: TypeAlias = Literal["nominal", "ordinal", "interval"]
"""What the values of ratings mean: names, an order, or distances."""


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
    size = int(max(a.max(), b.max())) + 1
    table = np.bincount(a * size + b, minlength=size * size).reshape(size, size) / len(a)
    observed = float(np.trace(table))
    expected = float(table.sum(1) @ table.sum(0))
    return (observed - expected) / (1 - expected) if expected < 1 else 0.0


def agreement(a: Verdicts, b: Verdicts) -> float:
    """The share of equal verdicts."""
    return float(np.mean(a == b))


def krippendorff(counts: Floats, values: Floats, level: Level, weights: Floats | None = None) -> float:
    """Krippendorff's α = 1 - D_o / D_e: agreement beyond chance of any number of raters, where some may be missing.

    `counts` (units, values) says how many raters gave each value, `values` are in ascending order, and `weights` says
    how often each unit counts, as a bootstrap has it. D_o is the mean of δ² over pairs of ratings of one unit, each
    unit's pairs divided by its ratings less one; D_e is that over all pairs of ratings. δ² is [c ≠ k] for names,
    (c - k)² for distances, and for an order (r_c - r_k)², r being the mean ranks of all ratings. Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability". Units with one rating do not count. NaN where nothing could have
    differed: no two ratings of one unit, or one value everywhere.
    """
    pairable = counts.sum(1) > 1
    counts, weights = counts[pairable], (np.ones(len(counts)) if weights is None else weights)[pairable]
    sizes = counts.sum(1)
    marginal = weights @ counts
    total = marginal.sum()
    if level == "nominal":
        within = sizes**2 - (counts**2).sum(1)  # ordered pairs that differ
        among = total**2 - (marginal**2).sum()
    else:
        x = values if level == "interval" else np.cumsum(marginal) - marginal / 2
        means = counts @ x / sizes
        within = 2 * sizes * (counts * (x - means[:, None]) ** 2).sum(1)  # Σᵢⱼ (xᵢ - xⱼ)² = 2m·Σ (xᵢ - x̄)²
        among = 2 * total * (marginal * (x - marginal @ x / max(total, 1)) ** 2).sum()
    if not among > 0:
        return float("nan")
    return float(1 - (weights * within / (sizes - 1)).sum() * (total - 1) / among)


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


def binomial(hits: int, n: int, level: float = 0.95) -> Estimate:
    """A share of n > 0 independent trials with its exact interval, which is never empty (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv  # not at the top: verdicts are compared where scipy is not needed

    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return Estimate(hits / n, low, high, n)


def _ranks(values: Floats) -> Floats:
    """Places from 0 on; equal values share their mean place."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts + 1) / 2
    return means[place]
