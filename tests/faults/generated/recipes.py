"""Every recipe with lines or values that are wrong, and every part with odd settings."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from alignzoo.errors import AlignzooError
from alignzoo.recipe import Recipe, load
from alignzoo.registry import KINDS, Registry
from faults.generated import Short, check_told, odd

LITERALS = ("", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "true", "[]", "{}", "[[", '"x"', "2020-01-01", "x")
LITERALS += ("9" * 400, '"\\u001b[2J"', "[nan, nan]", "[2.0, 3.0]", "{ name = 3 }", '"../../x"', "1_000", "0x10", '""')


@functools.cache
def registry() -> Registry:
    zoo = Registry(warn=lambda told: None)
    zoo.load_all()
    return zoo


def case(rng: random.Random, folder: Path) -> None:
    """Change a recipe's file, and load it."""
    zoo = registry()
    name = rng.choice(zoo.names("recipe"))
    source: Path = zoo.get("recipe", name)
    for neighbour in source.parent.glob("*.toml"):
        (folder / neighbour.name).write_bytes(neighbour.read_bytes())
    path = folder / "changed.toml"
    lines = source.read_text(encoding="utf-8").split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, lines)
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(odd.damaged(rng, content) if rng.random() < 0.3 else content)
    _load(path, [], path.name, name)


def setting(rng: random.Random, folder: Path) -> None:
    """Override a setting of a recipe, or of a part of any kind, by an odd value."""
    zoo = registry()
    name = rng.choice(zoo.names("recipe"))
    resolved = _resolved(name)
    kind = rng.choice([each for each in KINDS if each not in ("recipe", "task")])
    part = rng.choice(zoo.names(kind))
    cls = zoo.get(kind, part)
    own = [each.name for each in fields(cls)] if is_dataclass(cls) else []
    keys = [key for key, _ in _leaves(resolved)]
    stage = rng.choice(resolved["stage"])["name"]
    if own and rng.random() < 0.5:
        prefix = rng.choice((stage, ""))
        key = f"{prefix}.{kind}.{rng.choice(own)}".lstrip(".")
        overrides = [f"{f'{prefix}.{kind}'.lstrip('.')}={part}", f"{key}={_literal(rng)}"]
    else:
        overrides = [f"{rng.choice(keys)}={_literal(rng)}"]
    _load(name, overrides, *overrides, *(each.partition("=")[0] for each in overrides), name)


def _load(recipe: str | Path, overrides: list[str], *names: str) -> None:
    try:
        found = load(recipe, overrides, registry=registry())
    except AlignzooError as error:
        check_told(error)
        return
    if not isinstance(found, Recipe):
        raise Short(f"it was loaded as {type(found).__name__}")
    for key, value in _leaves(found.resolved):
        if isinstance(value, float) and not math.isfinite(value):
            raise Short(f"{key} = {value} is taken")
    for name in (found.name, *(stage.name for stage in found.stages)):
        if name in ("", ".", "..") or set(name) & set("/\0\x1b"):
            raise Short(f"the name {name!r} is taken")
    json.dumps(found.resolved)


@functools.cache
def _resolved(name: str) -> dict[str, Any]:
    return dict(load(name, [], registry=registry()).resolved)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        yield path.replace("stage.", "", 1), value
        return
    for key, each in items:
        name = each["name"] if path == "stage" and isinstance(each, dict) else key
        yield from _leaves(each, f"{path}.{name}".lstrip("."))


def _literal(rng: random.Random) -> str:
    return rng.choice((*LITERALS, *LITERALS, rng.choice(odd.TEXTS)))


def _change(rng: random.Random, lines: list[str]) -> None:
    at = rng.randrange(len(lines))
    key, equals, value = lines[at].partition("=")
    match rng.randrange(8):
        case 0:
            del lines[at]
            lines.append("")
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case 2 | 3 | 4:
            lines[at] = f"{key}= {_literal(rng)}" if equals else _literal(rng)
        case 5:
            lines[at] = f"{rng.choice(('bogus', 'stage', 'name', 'task', key.strip() + 'x'))} = {value or 1}"
        case 6:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        case 7:
            lines[at] = rng.choice(("[[stage]]", "[stage]", "[tasks.x]", "[[", "a.b.c = 1", '"" = 1'))
