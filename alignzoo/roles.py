"""The other policies that an optimizer names: which they are, how they are loaded, and when they move."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping

from alignzoo import columns
from alignzoo.errors import ModelError, PluginError
from alignzoo.interfaces import HasFollow, Optimizer, Policy, PolicySpec
from alignzoo.policies import loaded


def specs_of(optimizer: Optimizer) -> dict[str, PolicySpec]:
    """The settings of each role beside "old" and "ref": the optimizer's fields that hold a policy's settings."""
    if not dataclasses.is_dataclass(optimizer):
        return {}
    values = {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer)}
    return {name: value for name, value in values.items() if isinstance(value, PolicySpec)}


def missing(optimizer: Optimizer) -> dict[str, str]:
    """The roles that the optimizer's columns speak of and nobody has, each with one of these columns."""
    known = {columns.POLICY, columns.OLD, columns.REFERENCE, *specs_of(optimizer)}
    found = {columns.column(name).role: name for name in sorted(optimizer.needs)}
    return {role: name for role, name in found.items() if role not in known}


def takes_roles(spec: PolicySpec) -> bool:
    """Whether a policy can have other policies beside it."""
    try:
        inspect.signature(spec.load).bind(frozenset(), {})
    except TypeError:
        return False
    return True


def load(spec: PolicySpec, optimizer: Optimizer) -> Policy:
    """The policy with what the optimizer needs of it, and the roles that it names."""
    specs = specs_of(optimizer)
    if not specs:
        return loaded(spec, optimizer.needs)
    if not takes_roles(spec):
        raise ModelError(
            f"the policy {type(spec).__name__} cannot have other policies beside it (its load() takes no roles), and "
            f"{type(optimizer).__name__} names {', '.join(map(repr, specs))}"
        )
    return loaded(spec, optimizer.needs, specs)


def following(optimizer: Optimizer, step: int) -> dict[str, float]:
    """The roles that move after this step, and how much of the policy each takes."""
    if not isinstance(optimizer, HasFollow):
        return {}
    told: object = optimizer.follow(step)
    name = type(optimizer).__name__
    if not isinstance(told, Mapping):
        raise PluginError(f"{name}.follow({step}) is {told!r}, expected a mapping of roles to shares, {{}} for none")
    for role, mix in told.items():
        if isinstance(mix, bool) or not isinstance(mix, int | float) or not 0 <= mix <= 1:
            raise PluginError(f"{name}.follow({step})[{role!r}] is {mix!r}, expected a number from 0 to 1")
    return {role: float(mix) for role, mix in told.items() if mix}


def moving(optimizer: Optimizer, steps: int) -> frozenset[str]:
    """The roles that will have moved before the last of so many steps."""
    return frozenset(role for moved in moves(optimizer, steps - 1) for role in moved)


def moves(optimizer: Optimizer, steps: int) -> list[dict[str, float]]:
    """What `following` tells of each of so many steps; nothing of an optimizer that moves no role."""
    if not isinstance(optimizer, HasFollow):
        return []
    told: Optimizer = optimizer
    return [following(told, step) for step in range(1, steps + 1)]
