"""Tuning: the same number of trials for every algorithm, drawn at random from a declared space.

The space of every algorithm has the learning rate, from a quarter of its recipe's own to four times it, on a
logarithmic scale. An optimizer may declare more: `search: ClassVar = {"beta": (0.03, 1.0)}` says between which values,
above 0 and on a logarithmic scale too, a field of its own is worth trying. The recipe's own setting is one of the
trials, and favoured in nothing: equal trials are drawn for. Trials are evaluated on held-out prompts that the
comparison does not use, with a seed that it does not use, and chosen by the task's reward, never by its hidden gold.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

from alignzoo.compare.results import CellResult
from alignzoo.errors import PluginError
from alignzoo.interfaces import Optimizer

LR = (0.25, 4.0)
"""Multiples of a recipe's own learning rate, from and to."""

DICE = 20_240
"""Every algorithm's trials are drawn with the same dice."""


def space(optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """The fields that an optimizer declares worth trying, with their ranges."""
    declared: Mapping[str, tuple[float, float]] = getattr(type(optimizer), "search", {})
    for name, (low, high) in declared.items():
        if not hasattr(optimizer, name) or not 0 < low < high < math.inf:
            raise PluginError(
                f"{type(optimizer).__name__}.search[{name!r}] is ({low}, {high}): expected a field of its own, and a "
                "range above 0"
            )
    return dict(declared)


def settings(optimizer: Optimizer, lr: float, trials: int) -> list[tuple[str, ...]]:
    """The overrides of each trial; none of the first."""
    found: list[tuple[str, ...]] = [()]
    ranges = {"schedule.lr": (LR[0] * lr, LR[1] * lr)}
    ranges |= {f"optimizer.{name}": between for name, between in space(optimizer).items()}
    dice = np.random.default_rng(DICE)
    while len(found) < trials:
        drawn = {name: math.exp(dice.uniform(math.log(low), math.log(high))) for name, (low, high) in ranges.items()}
        found.append(tuple(f"{name}={value:.3g}" for name, value in drawn.items()))
    return found[:trials]


def best(trials: Sequence[CellResult], kl: float | None = None) -> int | None:
    """Which trial had the highest reward; accuracy, gold, then preference, where there is no reward. Among equal ones
    it is drawn, by the trials' names, so that it repeats. With `kl` only trials that stayed within it are compared; of
    none that did the one that went least far is taken. None where no trial ended as it should: that is no tuning."""
    far = {cell.id: cell.after.get("kl", 0.0) for cell in trials if cell.status == "ok"}
    allowed = {each for each, distance in far.items() if kl is None or distance <= kl} or {
        each for each, distance in far.items() if distance == min(far.values())
    }
    for name in ("reward", "accuracy", "gold", "preference"):
        values = [cell.after.get(name, -math.inf) if cell.id in allowed else -math.inf for cell in trials]
        highest = max(values, default=-math.inf)
        if highest > -math.inf:
            equal = [number for number, value in enumerate(values) if value == highest]
            draw = random.Random("\n".join(cell.id for cell in trials))
            return draw.choice(equal)
    return None
