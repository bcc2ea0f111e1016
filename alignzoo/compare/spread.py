"""`--frontier`: every algorithm under several KL weights, so that methods are compared along a curve, not at a point.

An optimizer says which of its fields weighs its KL to the reference, `kl_weight: ClassVar[str] = "beta"`: what a weight
is worth differs from method to method, so each is varied around its recipe's own. One that declares none is left as
it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from alignzoo.compare.grid import Grid
from alignzoo.compare.plan import Entry
from alignzoo.errors import PluginError, RecipeError, did_you_mean
from alignzoo.interfaces import Optimizer

FACTORS = (0.1, 0.3, 1.0, 3.0)
"""Multiples of a recipe's own KL weight."""


def spread(grid: Grid) -> tuple[Entry, ...]:
    """The plan's algorithms, each with every KL weight that is worth trying on one of its tasks."""
    found: list[Entry] = []
    for algorithm in grid.plan.algorithms:
        weights: dict[str, None] = {}
        for task in grid.tasks:
            optimizer = grid.recipe(algorithm, task).stages[-1].optimizer
            name = kl_weight(optimizer)
            if name:
                own = getattr(optimizer, name) or _default(optimizer, name)
                weights |= {f"optimizer.{name}={factor * own:.3g}": None for factor in FACTORS}
        keys = {each.partition("=")[0] for each in weights}
        rest = tuple(each for each in algorithm.settings if each.partition("=")[0] not in keys)
        found += [Entry(algorithm.name, (*rest, weight)) for weight in weights] if weights else [algorithm]
    if all(entry in grid.plan.algorithms for entry in found):
        raise RecipeError(
            f"--frontier: none of {', '.join(each.label for each in found)} declares a KL weight to vary; give "
            "settings of your own, as in NAME[optimizer.FIELD=VALUE]"
        )
    return tuple(found)


def kl_weight(optimizer: Optimizer) -> str:
    """The name of the field that weighs an optimizer's KL; empty where it declares none."""
    name: str = getattr(type(optimizer), "kl_weight", "")
    known = {field.name for field in dataclasses.fields(type(optimizer))}  # type: ignore[arg-type]
    if name and name not in known:
        cls = type(optimizer).__name__
        raise PluginError(f"{cls}.kl_weight is {name!r}: {cls} has no such field. {did_you_mean(name, known)}")
    return name


def _default(optimizer: Optimizer, name: str) -> float:
    """The class's own weight, where a recipe has turned it off."""
    fields: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(type(optimizer))}  # type: ignore[arg-type]
    return float(fields[name])
