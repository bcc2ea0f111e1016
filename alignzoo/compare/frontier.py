"""Over-optimisation: gold and proxy against the distance from the start, d = √KL, and where gold turns over.

Gao et al. 2022 (arXiv:2210.10760) fit gold by R(d) = d·(α - β·d) for best-of-n and by R(d) = d·(α - β·log d) for
reinforcement learning, R counted from the start and d = √KL in nats. Which of the two fits a method here better is
decided by the squared error, as both have two parameters. They fit many sizes at once; here it is one model and a few
settings, so a turning point is an estimate with an interval, and beyond the data it is not one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

Point: TypeAlias = tuple[float, float]
"""KL in nats per sequence, and a figure."""

FORMS: dict[str, str] = {"linear": "d·(α − β·d)", "log": "d·(α − β·log d)"}
"""The forms and how they are written."""

REACH = 1.25
"""A turning point further out than so many times the furthest run is beyond the data."""

FAR = 700.0
"""log d beyond which a turning point is none."""

RESAMPLES = 500


@dataclass(frozen=True)
class Fit:
    """A method's gold as a function of d."""

    form: Literal["linear", "log"]
    start: float
    """The figure at d = 0."""
    alpha: float
    beta: float
    error: float
    """Root mean squared."""
    furthest: float
    """The largest d of the data, ..."""
    nearest: float = 0.0
    """... and the smallest beside the start's."""
    low: float = math.nan
    """95 % interval of the turning point, over resampled runs; infinite where many resamples have none, or have too few
    points for a fit."""
    high: float = math.nan

    def at(self, d: float) -> float:
        """The figure at a distance."""
        if d <= 0:
            return self.start
        bend = d if self.form == "linear" else math.log(d)
        return self.start + d * (self.alpha - self.beta * bend)

    @property
    def turn(self) -> float:
        """The distance at which the figure is best: 0 where it only falls, infinite where it does not turn."""
        if self.beta <= 0:
            return math.inf
        if self.form == "linear":
            return max(0.0, self.alpha / (2 * self.beta))
        exponent = self.alpha / self.beta - 1
        return math.exp(exponent) if exponent < FAR else math.inf  # a slope of nearly nothing

    @property
    def turns(self) -> bool:
        """Whether the data show a turning point: it is the start, or has some on either side; nearly every resample of
        runs has one; and from it to the furthest run the fit falls by more than its error."""
        within = (self.turn == 0 or self.nearest <= self.turn) and self.turn <= self.furthest
        within = within and not math.isinf(self.high)
        return within and self.at(self.turn) - self.at(self.furthest) > self.error


def fit(runs: Sequence[Sequence[Point]], start: float, *, seed: int = 0) -> Fit | None:
    """The better of the two forms through the points of all runs of a method; None with too few different points.

    The interval comes from resampling whole runs, as the points of one run hang together.
    """
    best = _best(runs, start)
    if best is None:
        return None
    rng = np.random.default_rng(seed)
    turns = []
    for _ in range(RESAMPLES if len(runs) > 1 else 0):
        drawn = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        again = _of_form(best.form, drawn, start)
        turn = math.inf if again is None else again.turn
        turns.append(turn if turn <= REACH * best.furthest else math.inf)
    if not turns:
        return best
    low, high = np.quantile(turns, (0.025, 0.975), method="nearest")
    return replace(best, low=float(low), high=float(high))


def _best(runs: Sequence[Sequence[Point]], start: float) -> Fit | None:
    found = [each for each in (_of_form("linear", runs, start), _of_form("log", runs, start)) if each is not None]
    return min(found, key=lambda each: each.error, default=None)


def _of_form(form: Literal["linear", "log"], runs: Sequence[Sequence[Point]], start: float) -> Fit | None:
    """Least squares: R - R(0) is linear in α and β."""
    points = [(math.sqrt(kl), value) for run in runs for kl, value in run if kl > 0]
    d, value = (np.array(column, dtype=float) for column in (zip(*points, strict=True) if points else ((), ())))
    if len(np.unique(d)) < 3:
        return None
    design = np.stack([d, -d * (d if form == "linear" else np.log(d))], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, value - start, rcond=None)
    error = math.sqrt(float(np.mean((design @ (alpha, beta) + start - value) ** 2)))
    return Fit(form, start, float(alpha), float(beta), error, float(d.max()), float(d.min()))


def pareto(points: Sequence[Point]) -> list[int]:
    """Which points no other beats: none has both less KL and more of the figure. By KL, ascending."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    found: list[int] = []
    best = -math.inf
    for i in order:
        if points[i][1] > best:
            found.append(i)
            best = points[i][1]
    return found
