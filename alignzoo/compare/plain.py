"""What a comparison wrote as JSON, read back: what does not fit is told with its file and what to do."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from alignzoo.errors import RunError
from alignzoo.files import read_object

AGAIN = "Delete this cell's folder: the same command runs it again."
"""The cure for a cell of which something is damaged."""

T = TypeVar("T")


def from_plain(cls: type[T], data: Any, where: str | Path = "", fix: str = AGAIN) -> T:
    """A dataclass of plain fields from its JSON; lists become tuples. A RunError says what does not fit."""
    place = f"{where}: " if where else ""
    if not isinstance(data, Mapping):
        raise RunError(f"{place}found {type(data).__name__} where {cls.__name__} has an object. {fix}")
    hints = _hints(cls)  # type: ignore[arg-type]
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    if missing := sorted(needed - data.keys()):
        raise RunError(f"{place}{cls.__name__} has no {' and no '.join(map(repr, missing))}. {fix}")
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in hints}
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise RunError(f"{place}{name!r} of {cls.__name__} is {str(value)[:60]!r}, which does not fit. {fix}")
    return cls(**given)


def read_figures(path: Path, fix: str = AGAIN) -> dict[str, float]:
    """A JSON file of numbers by name, as timing.json is one."""
    found = read_object(path, fix=fix)
    for name, value in found.items():
        if not _fits(value, float):
            raise RunError(f"{path}: {name!r} is {str(value)[:60]!r}, where a number is expected. {fix}")
    return found


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    known = get_type_hints(cls)
    return {f.name: known[f.name] for f in fields(cls)}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a field's kind."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in inner
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(each, inner[0]) for each in value)
    if origin is not None:  # a mapping
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
