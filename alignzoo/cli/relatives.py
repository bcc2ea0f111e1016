"""An optimizer's nearest relative, and what the two differ in: by what their classes declare."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignzoo.registry.registrar import needs_of
from alignzoo.traits import Traits, traits_of

if TYPE_CHECKING:
    from alignzoo.registry import Registry
    from alignzoo.registry.registrar import Registration

TRAITS = ("couples", "trains", "online", "completions", "imitates", "reads_rewards")
"""What is compared beside needs and settings."""


@dataclass(frozen=True)
class Declared:
    """What an optimizer's class says of itself."""

    needs: frozenset[str]
    traits: Traits
    settings: dict[str, Any]
    """Each with its default."""
    parents: tuple[type, ...]

    def likeness(self, other: Declared) -> tuple[float, ...]:
        """How near another one is: its parent first, then by common settings, columns and traits."""
        common = len(self.settings.keys() & other.settings.keys()) / len(self.settings.keys() | other.settings.keys())
        equal = sum(getattr(self.traits, each) == getattr(other.traits, each) for each in TRAITS) / len(TRAITS)
        columns = len(self.needs & other.needs) / max(1, len(self.needs | other.needs))
        shared = sum(value == other.settings[key] for key, value in self.settings.items() if key in other.settings)
        return common + equal + columns, shared, -len(other.settings)


def nearest(zoo: Registry, found: Registration) -> dict[str, Any]:
    """The relative, how it is one, and the differences; empty for one that has none in its family."""
    family = [each for each in zoo.list("optimizer") if each.name != found.name and each.family == found.family]
    base = next((each for each in zoo.list("optimizer") if found.variant_of and found.variant_of in each.names), None)
    mine = _declared(zoo, found)
    others = {each: _declared(zoo, each) for each in ([base] if base else family)}
    if not others:
        return {}
    parents = [each for each, its in others.items() if its.parents[0] in mine.parents[1:]]
    relative = base or max(parents or others, key=lambda each: mine.likeness(others[each]))
    how = "a variant of it" if base else "built upon it" if parents else "the nearest of its family"
    return {"name": relative.name, "how": how, "differs": differences(mine, others[relative])}


def _declared(zoo: Registry, found: Registration) -> Declared:
    part = zoo.get("optimizer", f"{found.plugin}/{found.name}")
    cls = part if isinstance(part, type) else type(part)
    missing = dataclasses.MISSING
    settings = {
        each.name: each.default if each.default is not missing else None
        for each in dataclasses.fields(cls)
        if each.init
    }
    return Declared(frozenset(needs_of(part)), traits_of(part), settings, cls.__mro__)


def differences(mine: Declared, other: Declared) -> list[str]:
    """What this one has that the other has not, in words."""
    found = [f"needs {name}, too" for name in sorted(mine.needs - other.needs)]
    found += [f"does without {name}" for name in sorted(other.needs - mine.needs)]
    for each in TRAITS:
        here, there = getattr(mine.traits, each), getattr(other.traits, each)
        if here != there:
            found.append(f"{each} is {here}, not {there}")
    found += [f"has the setting {name}" for name in mine.settings if name not in other.settings]
    found += [f"lacks the setting {name}" for name in other.settings if name not in mine.settings]
    for name, default in mine.settings.items():
        if name in other.settings and default != other.settings[name]:
            found.append(f"{name} is {default!r} by default, not {other.settings[name]!r}")
    return found or ["its formula, which stands above; settings and needs are the same"]
