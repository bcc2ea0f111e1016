"""How sure: pure functions of numpy and scipy, every draw from a `Generator`.

Seeds are few (three to five) and prompts many, so two things are kept apart. Intervals and tests of one task treat
seeds and prompts as crossed random effects: they speak of new seeds and new prompts of the same kind, and with few
seeds they rest on the t distribution, whose tails a bootstrap over three values does not have. Aggregates over tasks
follow rliable (Agarwal et al. 2021, arXiv:2108.13264): interquartile means, stratified bootstrap, probability of
improvement, performance profiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array: TypeAlias = NDArray[np.float64]
Strata: TypeAlias = Sequence[Array]
"""One array of runs for each task; they may differ in length, where runs have failed."""

LEVEL = 0.05


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


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and prompts, and how sure it is."""

    mean: float
    se: float
    df: float
    """Degrees of freedom of the t distribution that the error is judged by."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        half = _critical(self.df) * self.se
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """The p-value of the mean being 0, two-sided."""
        if not self.se:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.se, self.df))

    def power(self, difference: float) -> float:
        """How often such a comparison finds a true difference of this size, at level 5 %, two-sided."""
        if not self.se:
            return 1.0 if difference else 0.0
        return float(power(difference / self.se, self.df))

    def detectable(self, wanted: float = 0.8) -> float:
        """The smallest true difference that is found in this share of such comparisons."""
        if not self.se:
            return 0.0
        top = 4.0
        while power(top, self.df) < wanted:
            top *= 2
        return float(optimize.brentq(lambda effect: power(effect, self.df) - wanted, 0, top)) * self.se


def power(effect: float, df: float) -> float:
    """P(|T| > t) for a noncentral T: `effect` is the true difference over its standard error.

    Integrated over the standard error's own distribution, χ/√df, at its quantiles; scipy's `nct` gives NaN for one
    degree of freedom.
    """
    critical = _critical(df) * _errors(df)
    return float(np.mean(special.ndtr(effect - critical) + special.ndtr(-effect - critical)))


@functools.lru_cache(maxsize=16)
def _errors(df: float) -> Array:
    """What a standard error may come to, over its true size: 4000 equally likely values."""
    quantiles = (np.arange(4000) + 0.5) / 4000
    return np.asarray(np.sqrt(stats.chi2.ppf(quantiles, df) / df))


def crossed(values: Array) -> Estimate:
    """The mean of (seeds, prompts), both random. Pass the differences of two algorithms for the paired test.

    Var = (MS_seeds + max(MS_prompts - MS_rest, 0)) / (K·P), that of crossed random effects (Clark 1973; Westfall,
    Kenny and Judd 2014). The two parts have few and many degrees of freedom; the critical value is the mean of their
    own, weighted by the parts (Cochran and Cox 1957, sec. 4.14), told as the `df` that has it. Satterthwaite's
    approximation, which is more usual, rejects up to 8 % at three seeds and 11 % at two where 5 % are meant; this one
    stays at or below 5 %, within the error of 4000 simulations. Where prompts do not matter it is the t test
    over seeds. Needs two seeds and two prompts.
    """
    seeds, prompts = values.shape
    if seeds < 2 or prompts < 2:
        raise ValueError(f"two seeds and two prompts are needed, found {seeds} and {prompts}")
    mean = values.mean()
    of_seed, of_prompt = values.mean(1), values.mean(0)
    rest = values - of_seed[:, None] - of_prompt + mean
    df_s, df_p = seeds - 1, prompts - 1
    by_seed = prompts * ((of_seed - mean) ** 2).sum() / df_s
    by_prompt = max(0.0, seeds * ((of_prompt - mean) ** 2).sum() / df_p - (rest**2).sum() / (df_s * df_p))
    total = by_seed + by_prompt
    if not total:
        return Estimate(float(mean), 0.0, float(df_s))
    critical = (by_seed * _critical(df_s) + by_prompt * _critical(df_p)) / total
    return Estimate(float(mean), math.sqrt(total / values.size), _df_of(critical, df_s, df_p))


def _critical(df: float) -> float:
    return float(stats.t.ppf(1 - LEVEL / 2, df))


def _df_of(critical: float, a: float, b: float) -> float:
    """The degrees of freedom, between a and b, of a critical value between theirs."""
    low, high = sorted((a, b))
    if critical >= _critical(low) or low == high:
        return float(low)
    if critical <= _critical(high):
        return float(high)
    return float(optimize.brentq(lambda df: _critical(df) - critical, low, high))


def over_prompts(values: Array) -> Estimate:
    """The mean of one seed's prompts: its error says nothing of other seeds."""
    n = len(values)
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), float(n - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): the smallest times n, the next times n - 1, ..., never falling, at most 1."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted
