"""What differs between the recipe that a run was started with and the one that it is to be resumed with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from alignzoo.schedule import BUDGETS

Plain = dict[str, Any]

OPEN = ("description",)
"""Keys of a recipe that change nothing in a run."""


def changes(former: Mapping[str, Any], now: Mapping[str, Any], begun: Collection[str]) -> list[str]:
    """The keys that differ where something has been trained already, in the recipe's order, each as an override would
    name it; both are resolved recipes. Stages that have not begun may be changed, added or left out."""
    before, after = _stages(former), _stages(now)
    found = list(_differing(_top(former), _top(now), ""))
    for name in before:
        if name in begun and name not in after:
            found.append(f"{name}: this stage has begun, and is no longer there")
    last = max((index for index, name in enumerate(after) if name in begun), default=0)
    for name in list(after)[:last]:
        if name not in begun:
            found.append(f"{name}: this stage has not begun, but stands before one that has")
    for name, stage in after.items():
        if name in begun and name in before:
            found += _differing(_leaves(before[name]), _leaves(stage), f"{name}.")
    return found


def _top(recipe: Mapping[str, Any]) -> Plain:
    return _leaves({key: value for key, value in recipe.items() if key not in ("stage", *OPEN)})


def _stages(recipe: Mapping[str, Any]) -> dict[str, Plain]:
    return {str(stage["name"]): _comparable(stage) for stage in recipe.get("stage", [])}


def _comparable(stage: Mapping[str, Any]) -> Plain:
    """A stage without the number of rounds, where that changes nothing in it: where each round has the same prompts,
    and no share of a budget."""
    which = stage.get("round")
    if not isinstance(which, Mapping) or which.get("prompts") != "same":
        return dict(stage)
    if any(stage.get("schedule", {}).get(name) for name in BUDGETS):
        return dict(stage)
    return {**stage, "round": {key: value for key, value in which.items() if key != "of"}}


def _differing(former: Plain, now: Plain, path: str) -> Iterator[str]:
    for key in [*now, *(key for key in former if key not in now)]:
        if former.get(key) != now.get(key):
            yield f"{path}{key}: was {former.get(key)!r}, now {now.get(key)!r}"


def _leaves(value: Any, path: str = "") -> Plain:
    """Every value that is no table or list, by its dotted key."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {key: leaf for name, each in items for key, leaf in _leaves(each, f"{path}.{name}".lstrip(".")).items()}
