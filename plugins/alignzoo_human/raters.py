"""How good each rater is, worked out together with what is true: Dawid and Skene, and Bradley-Terry with raters.

Nothing here weighs a rater unless it is asked to: `shares` counts every vote alike, except with `by_quality`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignzoo import DataError
from alignzoo_human.quality import opinions
from alignzoo_human.votes import Kind, Value, Vote

Floats: TypeAlias = NDArray[np.float64]
Sure: TypeAlias = tuple[float, float]
"""Pseudo-votes by which a rater is taken to mean the better answer, and the worse one."""

MOST_CLASSES = 20
"""How many different verdicts Dawid and Skene's model is fitted to at most: each rater has a table of their square."""


@dataclass(frozen=True)
class Consensus:
    """What is probably true, and how each rater says it."""

    items: tuple[str, ...]
    raters: tuple[str, ...]
    values: tuple[float, ...]
    """The different verdicts, ascending."""
    posterior: Floats
    """How probable each value is to be the true one, (items, values)."""
    prior: Floats
    """How frequent each value is among the true ones, (values,)."""
    confusion: Floats
    """How probably each rater says what, where what is true, (raters, true values, said values)."""
    objective: tuple[float, ...]
    """The log posterior before each iteration: it never falls."""

    def labels(self) -> dict[str, float]:
        """The most probable value of each item; of equals the lowest."""
        return {item: self.values[best] for item, best in zip(self.items, self.posterior.argmax(1), strict=True)}

    def accuracy(self) -> dict[str, float]:
        """How probably each rater says what is true, over items as frequent as these."""
        right = np.einsum("v,rvv->r", self.prior, self.confusion)
        return {rater: float(each) for rater, each in zip(self.raters, right, strict=True)}


@dataclass(frozen=True)
class Strengths:
    """How good each answer of each item is, and how far each rater follows that."""

    strengths: Mapping[str, tuple[float, ...]]
    """By item, of each of its answers, with mean 0 or near it."""
    reliability: Mapping[str, float]
    """By rater, the probability η of meaning the better answer: 0.5 answers at random, 1 as Bradley-Terry has it, 0 the
    wrong way round."""


def dawid_skene(
    votes: Sequence[Vote],
    kind: Kind,
    *,
    right: float = 2.0,
    wrong: float = 1.0,
    iterations: int = 500,
    tolerance: float = 1e-8,
) -> Consensus:
    """Fit true values and each rater's confusion matrix by expectation maximisation, from votes on pairs or grades.

    p(v | votes) ∝ p_v · Π_r π_r[v, said by r], with p and π the maximum of the posterior, each row of π_r under a
    Dirichlet prior of `right` pseudo-votes on the diagonal and `wrong` spread over the others, and p under one of one
    pseudo-item a value. Dawid and Skene 1979, Applied Statistics 28(1), sections 3 and 4, who have no priors: without
    them a rater with few votes is called perfect. It starts from the shares of votes, so that the values keep their
    names. The gold questions' and repeated votes do not count.
    """
    said = opinions(votes, kind)
    if kind == "ranking" or not said:
        raise DataError(f"Dawid and Skene's model is of votes on pairs or grades, and here are none of kind {kind!r}")
    table, items, raters, values = _table(said)
    n_values = len(values)
    prior_counts = np.full((n_values, n_values), wrong / max(n_values - 1, 1))
    np.fill_diagonal(prior_counts, right)
    posterior = table.sum(1) / table.sum((1, 2))[:, None]
    objective: list[float] = []
    for _ in range(iterations):
        confusion = np.einsum("iv,irs->rvs", posterior, table) + prior_counts
        confusion /= confusion.sum(2, keepdims=True)
        prior = posterior.sum(0) + 1.0
        prior /= prior.sum()
        joint = np.log(prior) + np.einsum("irs,rvs->iv", table, np.log(confusion))
        evidence = np.logaddexp.reduce(joint, axis=1)
        objective.append(float(evidence.sum() + (prior_counts * np.log(confusion)).sum() + np.log(prior).sum()))
        posterior = np.exp(joint - evidence[:, None])
        if len(objective) > 1 and objective[-1] - objective[-2] < tolerance * (1 + abs(objective[-1])):
            break
    return Consensus(items, raters, values, posterior, prior, confusion, tuple(objective))


def shares(votes: Sequence[Vote], kind: Kind, *, by_quality: bool = False) -> dict[str, dict[float, float]]:
    """For each item, how much speaks for each verdict: shares of its votes, every rater counting alike.

    With `by_quality` these are the probabilities of Dawid and Skene's model, which counts a rater by how far their
    votes tell true values apart.
    """
    if by_quality:
        found = dawid_skene(votes, kind)
        rows = zip(found.items, found.posterior, strict=True)
        return {item: {v: float(p) for v, p in zip(found.values, row, strict=True)} for item, row in rows}
    found_shares = {}
    for item, by in opinions(votes, kind).items():
        counted = Counter(float(value) for value in by.values() if not isinstance(value, tuple))
        if counted:
            found_shares[item] = {value: n / counted.total() for value, n in sorted(counted.items())}
    return found_shares


def crowd_bradley_terry(
    votes: Sequence[Vote], *, ridge: float = 0.1, right: float = 4.0, wrong: float = 1.0
) -> Strengths:
    """Strengths of answers and the reliability of raters, from rankings and pairs.

    Each vote is taken as its comparisons of two answers. Rater r prefers i to j with probability
    η_r·σ(s_i - s_j) + (1 - η_r)·σ(s_j - s_i); a tie is half a comparison either way. The maximum of the posterior, with
    s ~ N(0, 1/ridge) and η ~ Beta(1 + right, 1 + wrong). Chen et al. 2013, "Pairwise Ranking Aggregation in a
    Crowdsourced Setting", eq. 2, who have a virtual node in the place of the ridge. Where every η is 1 it is
    Bradley-Terry with that ridge. Strengths of different items have nothing to do with each other, but raters have.
    """
    said = {kind: opinions(votes, kind) for kind in ("ranking", "pair")}
    sizes: dict[str, int] = {}
    rows: list[tuple[str, int, int, str, float]] = []
    for item, rater, value in ((i, r, v) for each in said.values() for i, by in each.items() for r, v in by.items()):
        compared = _comparisons(value)
        sizes[item] = max(sizes.get(item, 0), 1 + max(max(a, b) for a, b, _ in compared))
        rows += [(item, a, b, rater, weight) for a, b, weight in compared]
    if not rows:
        raise DataError("Bradley-Terry's model is of rankings or pairs, and here are no votes on any")
    starts = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    raters = sorted({row[3] for row in rows})
    better = np.array([starts[item] + a for item, a, _, _, _ in rows])
    worse = np.array([starts[item] + b for item, _, b, _, _ in rows])
    who = np.searchsorted(raters, [row[3] for row in rows])
    weight = np.array([row[4] for row in rows])
    strengths, reliability = _fit(better, worse, who, weight, ridge, (right, wrong))
    return Strengths(
        {item: tuple(strengths[start : start + sizes[item]].tolist()) for item, start in starts.items()},
        dict(zip(raters, reliability.tolist(), strict=True)),
    )


def _fit(
    better: NDArray[np.int_], worse: NDArray[np.int_], who: NDArray[np.int_], weight: Floats, ridge: float, sure: Sure
) -> tuple[Floats, Floats]:
    """Maximise the log posterior over strengths and over the log odds of η; η is what comes back."""
    from scipy.optimize import minimize
    from scipy.special import expit

    n, n_raters = int(max(better.max(), worse.max())) + 1, int(who.max()) + 1
    right, wrong = sure

    def loss(x: Floats) -> tuple[float, Floats]:
        s, odds = x[:n], x[n:]
        gap = s[better] - s[worse]
        meant, other = (-np.logaddexp(0, -sign * odds[who]) - np.logaddexp(0, -sign * gap) for sign in (1, -1))
        said = np.logaddexp(meant, other)
        gamma, eta = np.exp(meant - said), expit(odds)  # how probably the rater meant the better one
        slope = weight * (gamma - expit(gap))  # of γ·log σ(g) + (1 - γ)·log σ(-g)
        ds = np.bincount(better, slope, n) - np.bincount(worse, slope, n) - ridge * s
        dodds = np.bincount(who, weight * (gamma - eta[who]), n_raters) + right - (right + wrong) * eta
        prior = -right * np.logaddexp(0, -odds).sum() - wrong * np.logaddexp(0, odds).sum() - ridge / 2 * (s @ s)
        return -float(weight @ said + prior), -np.concatenate([ds, dodds])

    start = np.concatenate([np.zeros(n), np.full(n_raters, np.log(right / wrong))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-7})
    return found.x[:n], expit(found.x[n:])


def _comparisons(value: Value) -> list[tuple[int, int, float]]:
    """The comparisons that a verdict holds: the better answer, the worse one, and how much it counts."""
    ranks = value if isinstance(value, tuple) else (1 - value, value)  # a pair's: the lower number is the better place
    found: list[tuple[int, int, float]] = []
    for a, b in itertools.combinations(range(len(ranks)), 2):
        if ranks[a] == ranks[b]:
            found += [(a, b, 0.5), (b, a, 0.5)]
        else:
            found.append((a, b, 1.0) if ranks[a] < ranks[b] else (b, a, 1.0))
    return found


def _table(
    said: Mapping[str, Mapping[str, Value]],
) -> tuple[Floats, tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
    """Votes as a table (items, raters, values) of 0 and 1, and what its axes are."""
    flat = {item: {r: float(v) for r, v in by.items() if not isinstance(v, tuple)} for item, by in said.items()}
    values = sorted({v for by in flat.values() for v in by.values()})
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"the grades have {len(values)} different values, and Dawid and Skene's model takes {MOST_CLASSES} at "
            "most, as a rater's confusion matrix has the square of them. Round the grades to fewer"
        )
    raters = sorted({r for by in flat.values() for r in by})
    table = np.zeros((len(flat), len(raters), len(values)))
    places = {rater: place for place, rater in enumerate(raters)}
    for i, by in enumerate(flat.values()):
        for rater, value in by.items():
            table[i, places[rater], values.index(value)] = 1
    return table, tuple(flat), tuple(raters), tuple(values)
