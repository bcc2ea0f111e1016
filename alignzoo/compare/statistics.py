"""How sure: pure functions of numpy and scipy, every draw from a `Generator`.

Seeds are few (three to five) and prompts many, so two things are kept apart. Intervals and tests of one task treat
seeds and prompts as crossed random effects: they speak of new seeds and new prompts of the same kind, and with few
seeds they rest on the t distribution, whose tails a bootstrap over three values does not have. Aggregates over tasks
follow rliable (Agarwal et al. 2021, arXiv:2108.13264): interquartile means, stratified bootstrap, probability of
improvement, performance profiles. Which hypotheses are one family, and at which level, is in
`alignzoo.compare.inference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array: TypeAlias = NDArray[np.float64]
Strata: TypeAlias = Sequence[Array]
"""One array of runs for each task; they may differ in length, where runs have failed."""

LEVEL = 0.05

PRIOR = 2.5
"""How many degrees of freedom the variance that algorithms have in common counts beside an algorithm's own."""

FLOOR = 0.1
"""The smallest share of the variance of single answers that the variance between runs is taken to be."""

SMALLEST = 1e-100
"""No p-value is smaller."""


# --- aggregates over runs ---------------------------------------------------------------------------------------------


def iqm(values: Sequence[float] | Array) -> Any:
    """The interquartile mean: the mean of the middle half; int(n / 4) values are left out at each end.

    Of the last axis: this and the statistics below take one sample, (n,), or many at once, (reps, n).
    """
    return stats.trim_mean(np.asarray(values, float), 0.25, axis=-1)


def stratified_bootstrap(
    strata: Strata, statistic: Callable[[list[Array]], Any], *, rng: np.random.Generator, reps: int
) -> Array:
    """`statistic` of resampled runs, (reps, ...): each task's runs are drawn with replacement from its own."""
    drawn = [runs[rng.integers(len(runs), size=(reps, len(runs)))] for runs in strata]
    return np.asarray(statistic(drawn), float)


def percentiles(draws: Array, level: float = LEVEL) -> tuple[Any, Any]:
    """The central interval of bootstrap draws."""
    low, high = np.percentile(draws, [100 * level / 2, 100 * (1 - level / 2)], axis=0)
    return low, high


def widened(strata: Strata, level: float = LEVEL) -> float:
    """The level of the percentiles whose interval covers at `level` although runs are few.

    2·Φ(-√(n/(n-1))·t), t being the critical value with Σ(n - 1) degrees of freedom: a bootstrap over n values has
    (n-1)/n of their variance, and normal tails (Hesterberg 2015, arXiv:1411.5279, sec. 4.3).
    """
    least = min(len(runs) for runs in strata)
    if least < 2:
        raise ValueError("an interval over runs needs two runs of each task")
    df = sum(len(runs) - 1 for runs in strata)
    return float(2 * stats.norm.sf(math.sqrt(least / (least - 1)) * stats.t.isf(level / 2, df)))


def unseen(n: int, level: float = LEVEL) -> float:
    """How likely an event may be that n independent trials have not shown: 1 - level^(1/n) (Clopper and Pearson)."""
    return float(1 - level ** (1 / n))


def pooled_iqm(strata: Sequence[Array]) -> Any:
    """The IQM of all runs of all tasks together."""
    return iqm(np.concatenate(list(strata), axis=-1))


def probability_of_improvement(a: Strata, b: Strata) -> Any:
    """P(a run of a beats a run of b), ties half, averaged over tasks: the Mann-Whitney U statistic, rescaled."""
    pairs = [(x[..., :, None], y[..., None, :]) for x, y in zip(a, b, strict=True)]
    return np.mean([np.mean((x > y) + 0.5 * (x == y), axis=(-2, -1)) for x, y in pairs], axis=0)


def performance_profile(strata: Strata, thresholds: Array) -> Any:
    """The share of runs whose score is above each threshold, averaged over tasks."""
    return np.mean([np.mean(runs[..., None] > thresholds, axis=-2) for runs in strata], axis=0)


# --- one task: seeds × prompts ----------------------------------------------------------------------------------------

Kind = Literal["any", "share", "difference"]
"""What is estimated: a number of any size; a share of right answers, in [0, 1]; the difference of two shares."""


@dataclass(frozen=True)
class Estimate:
    """Means over seeds and prompts, one or many at once, and how sure they are."""

    mean: Array
    by_runs: Array
    """The part of the squared standard error that runs bring."""
    by_prompts: Array
    """The part that prompts bring."""
    df_runs: float
    df_prompts: float
    n_runs: int
    n_prompts: int
    alike: Array
    """Where nothing differs in any answer, whatever error is borrowed from others that do differ."""
    kind: Kind = "any"

    def __getitem__(self, index: Any) -> Estimate:
        """One of many."""
        every = (self.mean, self.by_runs, self.by_prompts, self.alike)
        mean, runs, prompts, alike = (each[..., index] for each in every)
        return replace(self, mean=mean, by_runs=runs, by_prompts=prompts, alike=alike)

    @property
    def se(self) -> Array:
        """The standard error."""
        return np.sqrt(self.by_runs + self.by_prompts)

    @property
    def identical(self) -> bool:
        """Whether nothing differs at all in this one."""
        return bool(self.alike)

    def critical(self, level: float) -> Array:
        """The critical value of |mean|/se: the mean of those of the two parts, weighted by them, at this very level."""
        runs, prompts = (stats.t.isf(level / 2, df) for df in (self.df_runs, self.df_prompts))
        total = self.by_runs + self.by_prompts
        share = np.divide(self.by_runs, total, out=np.ones_like(total), where=total > 0)
        return np.asarray(share * runs + (1 - share) * prompts)

    def at(self, level: float) -> tuple[Array, Array]:
        """The interval that covers with probability 1 - level. Shares stay in [0, 1], and what right or wrong answers
        to so many prompts cannot exclude is in it."""
        if self.kind == "share":
            return self._score_interval(level)
        half = self.critical(level) * self.se
        if self.kind == "any":
            return self.mean - half, self.mean + half
        half = np.maximum(half, unseen(self.n_prompts, level))
        return np.maximum(self.mean - half, -1.0), np.minimum(self.mean + half, 1.0)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of a single one."""
        low, high = self.at(LEVEL)
        return float(low), float(high)

    @property
    def p(self) -> float:
        """The p-value of the mean being 0, two-sided, of a single one: the level at which its interval ends at 0."""
        mean, total = abs(float(self.mean)), float(self.by_runs + self.by_prompts)
        if mean == 0:
            return 1.0
        p = _level_of(mean / math.sqrt(total), self)
        return max(p, (1 - min(mean, 1.0)) ** self.n_prompts, SMALLEST) if self.kind == "difference" else p

    def detectable(self, share: float = 0.8, level: float = LEVEL) -> float:
        """For planning: the true difference that a comparison finds in this share of repetitions, if its standard error
        is the one estimated here, which of few seeds is rough."""
        return float((self.critical(level) + stats.norm.ppf(share)) * self.se)

    def _score_interval(self, level: float) -> tuple[Array, Array]:
        """Wilson's, for as many independent answers as the standard error tells of; of as many as there are prompts,
        where all answers are right, or all wrong, and it tells nothing."""
        p, n = self.mean, float(self.n_runs * self.n_prompts)
        spread, variance = p * (1 - p), self.by_runs + self.by_prompts
        inside = (p > 0) & (p < 1)
        size = np.divide(spread, variance, out=np.full_like(p, n), where=variance > 0)
        size = np.where(inside, np.minimum(size, n), float(self.n_prompts))
        z2 = np.where(inside, self.critical(level), stats.t.isf(level / 2, self.df_prompts)) ** 2
        middle = (p + z2 / (2 * size)) / (1 + z2 / size)
        half = np.sqrt(z2 * (spread / size + z2 / (4 * size**2))) / (1 + z2 / size)
        return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def _level_of(t: float, estimate: Estimate) -> float:
    """The level of which t is the critical value."""

    def over(log_level: float) -> float:
        return float(estimate.critical(math.exp(log_level))) - t

    smallest = math.log(SMALLEST)
    return math.exp(smallest if over(smallest) < 0 else optimize.brentq(over, smallest, 0.0))


@dataclass(frozen=True)
class MeanSquares:
    """Those of many (runs, prompts) tables, whose means they come with."""

    mean: Array
    runs: Array
    prompts: Array
    rest: Array
    n_runs: int
    n_prompts: int

    def estimate(self, pooled: Array | None = None, independent: float = 1.0, kind: Kind = "any") -> Estimate:
        """Means with their errors, where runs and prompts are both random.

        Var = (MS_runs + max(MS_prompts - MS_rest, 0)) / (K·P), that of crossed random effects (Clark 1973; Westfall,
        Kenny and Judd 2014). The two parts have few and many degrees of freedom, and the critical value is the mean of
        their own, weighted by the parts (Cochran and Cox 1957, sec. 4.14). Two things differ from the sources:
        MS_runs is at least FLOOR·MS_rest, for its expectation is at least MS_rest, and K means that coincide by chance
        are no certainty; and it is shrunk towards what algorithms have in common (Smyth 2004, eq. 5):

            (d·MS_runs + PRIOR·pooled) / (d + PRIOR),  d = K - 1

        `pooled` is the mean of MS_runs over tables that hold as much as `independent` tables; the degrees of freedom
        are Satterthwaite's for equal variances, d / ((1-w)²·(1 - 1/independent) + 1/independent) with w the weight of
        `pooled`.
        """
        alike = (self.mean == 0) & (self.runs + self.prompts + self.rest == 0)
        d = self.n_runs - 1
        weight = PRIOR / (PRIOR + d) if pooled is not None and independent > 1 else 0.0
        runs = self.runs if pooled is None else (1 - weight) * self.runs + weight * pooled
        df = d / ((1 - weight) ** 2 * (1 - 1 / independent) + 1 / independent) if weight else float(d)
        size = self.n_runs * self.n_prompts
        runs = np.maximum(runs, FLOOR * self.rest)
        prompts = np.maximum(self.prompts - self.rest, 0.0)
        certain = runs + prompts <= 1e-12 * self.mean**2 * size  # a difference that is the same in every answer
        runs = np.where(certain, FLOOR * self.mean**2 / size, runs)
        n_runs, n_prompts = self.n_runs, self.n_prompts
        return Estimate(self.mean, runs / size, prompts / size, df, n_prompts - 1.0, n_runs, n_prompts, alike, kind)


class Crossed:
    """Scores of several algorithms, (..., algorithms, runs, prompts): the same seeds and the same prompts for all.

    Sums of products of centred scores give every algorithm's mean squares and those of every difference.
    """

    def __init__(self, values: Array) -> None:
        self.n_runs, self.n_prompts = values.shape[-2:]
        if self.n_runs < 2 or self.n_prompts < 2:
            raise ValueError(f"two seeds and two prompts are needed, found {self.n_runs} and {self.n_prompts}")
        runs, prompts = values.mean(-1), values.mean(-2)
        self.mean = runs.mean(-1)
        rest = values - runs[..., None] - prompts[..., None, :] + self.mean[..., None, None]
        df_runs, df_prompts = self.n_runs - 1, self.n_prompts - 1
        self._runs = self.n_prompts / df_runs * _products(runs - self.mean[..., None])
        self._prompts = self.n_runs / df_prompts * _products(prompts - self.mean[..., None])
        self._rest = _products(rest.reshape(*rest.shape[:-2], -1)) / (df_runs * df_prompts)

    def means(self) -> MeanSquares:
        """Each algorithm's."""
        every = (self._runs, self._prompts, self._rest)
        runs, prompts, rest = (np.diagonal(each, axis1=-2, axis2=-1) for each in every)
        return MeanSquares(self.mean, runs, prompts, rest, self.n_runs, self.n_prompts)

    def differences(self, first: Any, second: Any) -> MeanSquares:
        """Those of the algorithms `first` less the algorithms `second`, lists of their numbers."""
        every = (self._runs, self._prompts, self._rest)
        runs, prompts, rest = (_of_differences(each, first, second) for each in every)
        mean = self.mean[..., first] - self.mean[..., second]
        return MeanSquares(mean, runs, prompts, rest, self.n_runs, self.n_prompts)


def _products(rows: Array) -> Array:
    return np.asarray(rows @ np.swapaxes(rows, -1, -2))


def _of_differences(products: Array, first: Any, second: Any) -> Array:
    own = products[..., first, first] + products[..., second, second]
    found = own - 2 * products[..., first, second]
    return np.where(found > 1e-12 * own, found, 0.0)  # what rounding leaves of equal scores is nothing


def crossed(values: Array) -> Estimate:
    """The mean of (seeds, prompts), both random; of differences, the paired test. Needs two seeds and two prompts."""
    kind: Kind = "difference" if np.isin(values, (-1.0, 0.0, 1.0)).all() else "any"
    return Crossed(values[None]).means().estimate(kind=kind)[0]


def over_prompts(values: Array, kind: Kind = "any") -> Estimate:
    """The mean of one seed's prompts: its error says nothing of other seeds."""
    n = len(values)
    variance = np.asarray(values.var(ddof=1) / n if n > 1 else 0.0)
    variance = np.where(variance == 0, FLOOR * values.mean() ** 2 / n, variance)
    alike, df = np.asarray(not values.any()), max(n - 1.0, 1.0)
    return Estimate(np.asarray(values.mean()), np.zeros(()), variance, 1.0, df, 1, n, alike, kind)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): the smallest times n, the next times n - 1, ..., never falling, at most 1."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted
