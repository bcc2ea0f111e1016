"""All tasks together: every run on one scale, interquartile means, probabilities of improvement, performance profiles.

They are given for two tasks or more, with five runs or more of each: an interval that is a bootstrap over fewer covers
too seldom.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignzoo.compare import statistics as st
from alignzoo.compare.results import Improvement, Profile, Standing

REPS = 2000
"""Bootstrap resamples."""

SEED = 7
"""Seed of the bootstrap."""

POINTS = 41
"""Thresholds of a performance profile."""

TASKS = 2
"""The fewest tasks of which there are such figures."""

RUNS = 5
"""The fewest runs of an algorithm on each of them."""


@dataclass(frozen=True)
class Rescaled:
    """Every run's score with the start at 0 and the best of its task at 1."""

    strata: Mapping[str, Sequence[st.Array]]
    """By algorithm: an array of runs for each task. Those that have no run on some task are left out."""


def rescaled(runs: Mapping[str, Mapping[str, st.Array]], start: str, best: Mapping[str, float]) -> Rescaled:
    """`runs`: by task and label, the score of every run. `best`: the known best score of tasks that have one; of the
    others the best run of any algorithm stands for it. Empty where tasks or runs are too few."""
    scales = {}
    for task, of_task in runs.items():
        zero = float(of_task[start].mean()) if start in of_task else 0.0
        highest = max((float(values.max()) for values in of_task.values()), default=zero)
        one = best.get(task, highest)
        scales[task] = (zero, one - zero if one > zero else 1.0)
    strata = {}
    for label in dict.fromkeys(label for of_task in runs.values() for label in of_task):
        if all(label in of_task for of_task in runs.values()):
            strata[label] = [(runs[task][label] - zero) / width for task, (zero, width) in scales.items()]
    return Rescaled({label: mine for label, mine in strata.items() if _enough(mine)})


def _enough(strata: Sequence[st.Array]) -> bool:
    return len(strata) >= TASKS and min(map(len, strata)) >= RUNS


def standings(found: Rescaled) -> list[Standing]:
    """The interquartile mean of each."""
    every = []
    for label, strata in found.strata.items():
        draws = st.stratified_bootstrap(strata, st.pooled_iqm, rng=np.random.default_rng(SEED), reps=REPS)
        low, high = map(float, st.percentiles(draws, st.widened(strata)))
        values = tuple(float(value) for runs in itertools.zip_longest(*strata) for value in runs if value is not None)
        mean, iqm = float(np.mean(np.concatenate(strata))), float(st.pooled_iqm(strata))
        every.append(Standing("", label, "rescaled", values, mean, iqm, low, high))
    return every


def improvements(found: Rescaled) -> list[Improvement]:
    """How likely a run of each is to beat a run of each other."""
    every = []
    for a, b in itertools.combinations(found.strata, 2):
        ours, theirs = found.strata[a], found.strata[b]
        n = len(ours)
        draws = st.stratified_bootstrap(
            [*ours, *theirs],
            lambda drawn, n=n: st.probability_of_improvement(drawn[:n], drawn[n:]),  # type: ignore[misc]
            rng=np.random.default_rng(SEED),
            reps=REPS,
        )
        low, high = map(float, st.percentiles(draws, st.widened([*ours, *theirs])))
        chance = float(st.probability_of_improvement(ours, theirs))
        least = st.unseen(min(sum(map(len, ours)), sum(map(len, theirs))))  # runs that all win may lose yet
        low, high = max(0.0, min(low, chance - least)), min(1.0, max(high, chance + least))
        every += [Improvement(a, b, chance, low, high), Improvement(b, a, 1 - chance, 1 - high, 1 - low)]
    return every


def profiles(found: Rescaled) -> list[Profile]:
    """The share of runs above each score."""
    scores = [score for strata in found.strata.values() for runs in strata for score in runs]
    if not scores:
        return []
    thresholds = np.linspace(min(0.0, *scores), max(1.0, *scores), POINTS)
    every = []
    for label, strata in found.strata.items():
        draws = st.stratified_bootstrap(
            strata,
            lambda drawn: st.performance_profile(drawn, thresholds),
            rng=np.random.default_rng(SEED),
            reps=REPS // 4,
        )
        low, high = st.percentiles(draws, st.widened(strata))
        shares = st.performance_profile(strata, thresholds)
        every.append(Profile(label, *(tuple(map(float, each)) for each in (thresholds, shares, low, high))))
    return every
