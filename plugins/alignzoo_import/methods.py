"""Which of a tool's methods a file is for, and the defaults of the tool's version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo_import.table import Former, Rule, Tool, Variant
from alignzoo_import.values import is_off, word


@dataclass(frozen=True)
class Asked:
    """What the command line adds to a file."""

    path: Path
    method: str = ""
    processes: int = 1
    packed: float = 0.0
    version: str = ""
    drop: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Dotted settings of the recipe with their values."""


def method_name(tool: Tool, config: Mapping[str, Any], asked: Asked) -> str:
    """Which of the tool's methods a file is for."""
    known = ", ".join(tool.methods)
    if asked.method:
        if asked.method not in tool.methods:
            raise RecipeError(f"--method {asked.method}: {tool.title} has {did_you_mean(asked.method, tool.methods)}")
        return asked.method
    if tool.method_key:
        said = config.get(tool.method_key)
        name = tool.method_names.get(word(said), word(said)) if not is_off(said) else tool.method_default
        marked = [each for each, method in tool.methods.items() if any(not is_off(config.get(k)) for k in method.marks)]
        name = marked[0] if is_off(said) and marked else name
        if name not in tool.methods:
            hint = did_you_mean(name, tool.methods)
            raise RecipeError(
                f"{asked.path}: {tool.method_key} = {word(said)}, of which there is no counterpart here. {hint}"
            )
        return name
    marked = [name for name, method in tool.methods.items() if any(key in config for key in method.marks)]
    if len(marked) != 1:
        raise RecipeError(
            f"{asked.path}: the file does not say which of {tool.title}'s trainers it is for: give --method, one of "
            f"{known}"
        )
    return marked[0]


def defaults_of(tool: Tool, method: str, version: str) -> dict[str, Any]:
    """The defaults of the tool at a version."""
    found = {**tool.defaults, **tool.methods[method].defaults}
    for each in _formers(tool, method, version):
        found |= each.defaults
    return {key: value for key, value in found.items() if value != "none"}


def rules_of(tool: Tool, method: str, variant: Variant, version: str) -> dict[str, Rule]:
    """What becomes of each key of the tool at a version, the narrower rules over the wider."""
    found = tool.method_rules(tool.methods[method], variant)
    for each in _formers(tool, method, version):
        found |= each.keys
    return found


def _formers(tool: Tool, method: str, version: str) -> list[Former]:
    """What a version had otherwise than later ones, the latest first."""
    try:
        asked = Version(version)
    except InvalidVersion:
        raise RecipeError(f"--as-of {version}: expected a version, as in {tool.version}") from None
    formers = sorted(tool.history, key=lambda former: Version(former.before), reverse=True)
    return [each for each in formers if asked < Version(each.before) and each.method in ("", method)]
