"""Tables -> dataclasses, and back: a part's settings are checked here, with errors that say where and what."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from alignzoo.errors import AlignzooError, PluginError, RecipeError, did_you_mean
from alignzoo.former import value_advice
from alignzoo.recipe.tables import Node

LIVE = re.compile(r"<\w+ object>")
"""How a live object is shown in a resolved recipe."""

STRICT = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""True is not 1, "1e-4" is not a number, numbers are finite, and a nested dataclass takes no unknown field."""


def build(cls: type[Any], table: Node, path: str) -> Any:
    """An instance of a dataclass from its table; `path` is the table's dotted path, for messages."""
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = hints_of(cls)
    values = {}
    for key, node in table.value.items():
        if key not in known:
            hint = did_you_mean(key, known)
            raise RecipeError(f"{node.where}: {path}.{key}: {cls.__name__} has no such field. {hint}")
        values[key] = checked(hints[key], node, f"{path}.{key}")
    for f in known.values():
        if f.name not in values and f.default is f.default_factory is dataclasses.MISSING:
            expected = describe(hints[f.name])
            raise RecipeError(f"{table.where}: {path}.{f.name} is missing; {cls.__name__} needs it: {expected}")
    try:
        return cls(**values)
    except Exception as error:  # whatever a part's own __post_init__ finds wrong
        blamed = next((key for key in values if re.search(rf"\b{key}\b", str(error))), None)
        where = table.value[blamed].where if blamed else table.where
        found = f", found {show(table.value[blamed].plain())}" if blamed else ""
        what = "" if isinstance(error, ValueError | TypeError | AlignzooError) else f"{type(error).__name__}: "
        raise RecipeError(f"{where}: {path}{f'.{blamed}' if blamed else ''}{found}: {what}{error}") from error


def checked(hint: Any, node: Node, path: str) -> Any:
    """A value, of the annotated type."""
    value = node.plain()
    if isinstance(value, str) and LIVE.fullmatch(value):
        raise RecipeError(f"{node.where}: {path} was a live object, {value}, which no file can hold; give it again")
    if hint is Any:
        check_finite(value, node, path)
        return value
    listed: Any = types.GenericAlias(list, (hint,))  # pydantic takes no configuration for a bare dataclass
    try:
        adapter: TypeAdapter[list[Any]] = TypeAdapter(listed, config=STRICT)
        # As JSON a list may become a tuple and a string a path, and yet nothing else is taken for what it is not.
        found = adapter.validate_json(json.dumps([value])) if _is_data(value) else adapter.validate_python([value])
        if isinstance(value, Mapping):
            check_finite(found[0], node, path)  # what is Any in it was taken as it is
        return found[0]
    except ValidationError as error:
        raise RecipeError(_complaint(error, hint, node, path)) from error
    except PydanticUserError as error:
        raise PluginError(f"{node.where}: {path}: its annotation {hint} cannot be checked: {error}") from error


def check_settings(part: Any, node: Node, path: str) -> None:
    """Check the fields of a dataclass that Python gave ready-made, as if a table had given them."""
    hints = hints_of(type(part))
    for f in dataclasses.fields(part):
        if f.init:
            checked(hints[f.name], Node(getattr(part, f.name), node.where), f"{path}.{f.name}")


def check_finite(value: Any, node: Node, path: str) -> None:
    """Raise RecipeError for a number that is not finite, in a part too, unless that is its field's default."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{node.where}: {path}: found {value!r}, allowed: a number, and finite{_instead(path)}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            if f.init and (given := getattr(value, f.name)) is not f.default:
                check_finite(given, node, f"{path}.{f.name}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            check_finite(each, node, f"{path}.{index}")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            check_finite(each, node, f"{path}.{key}")


def kind_of(hint: Any) -> str:
    """The kind of part that a field of this annotation holds, as in `judge: Judge`; empty where it holds none."""
    if get_origin(hint) in (Union, types.UnionType, Annotated):
        return next(filter(None, map(kind_of, get_args(hint))), "")
    contract = isinstance(hint, type) and hint.__module__.startswith(("alignzoo.interfaces", "alignzoo.engines"))
    return NESTED[hint.__name__][0] if contract and hint.__name__ in NESTED else ""


def settings(part: Any) -> dict[str, Any]:
    """The fields of a dataclass instance as plain data: the inverse of `build`."""
    return {f.name: plain(getattr(part, f.name)) for f in dataclasses.fields(part) if f.init}


def plain(value: Any) -> Any:
    """A field's value as JSON has it; an object that is no data is shown as "<ClassName object>"."""
    match value:
        case enum.Enum():
            return plain(value.value)
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case list() | tuple():
            return [plain(each) for each in value]
        case set() | frozenset():
            return sorted(map(plain, value), key=repr)
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: plain(each) for key, each in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return settings(value)
    return f"<{type(value).__name__} object>"


def show(value: Any) -> str:
    """A value as a message shows it: in TOML's words, with its type."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value!r}"
        case str():
            return f"{json.dumps(value, ensure_ascii=False)} (a string)"
        case Mapping():
            return "a table"
        case list() | tuple():
            return f"a list, {json.dumps(plain(value), ensure_ascii=False)[:80]}"
        case None:
            return "nothing"
    return f"<{type(value).__name__} object>"


WORDS: dict[Any, str] = {
    Any: "anything",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    Callable: "a callable",
}
NESTED = {
    "Optimizer": ("optimizer", "an optimizer"),
    "PolicySpec": ("policy", "a policy: the model's directory, or a table of settings"),
    "Sampler": ("sampler", "a sampler"),
    "RewardSource": ("reward", "a reward"),
    "Judge": ("judge", "a judge"),
    "Writer": ("judge", "a judge that can also write"),
    "Task": ("task", "a task"),
    "Engine": ("engine", "an engine"),
}
"""The contracts of `alignzoo.interfaces` and `alignzoo.engines` by which a field asks for a part: its kind, and how a
message calls it."""

BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}


def describe(hint: Any) -> str:
    """What a field's annotation allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [
            f"{word} {value:,}" if isinstance(value, int) else f"{word} {value:g}"
            for word, value in _bounds(arguments[1:])
        ]
        return " ".join([describe(arguments[0]), " and ".join(bounds)]).strip()
    if origin in (Union, types.UnionType):
        return " or ".join(describe(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    kind = origin or hint
    if kind_of(kind):
        text = NESTED[kind.__name__][1]
        return text if ":" in text else f"{text}: a name, or a table with one"
    if kind in WORDS:
        return WORDS[kind]
    if not isinstance(kind, type):
        return str(hint)
    if issubclass(kind, enum.Enum):
        return "one of " + ", ".join(repr(each.value) for each in kind)
    if issubclass(kind, Mapping) and len(arguments) == 2 and arguments[1] is not Any:
        return f"a table, each value {describe(arguments[1])}"
    if issubclass(kind, Mapping) or dataclasses.is_dataclass(kind):
        return "a table"
    if issubclass(kind, tuple) and arguments and arguments[-1] is not ...:
        return f"a list of {len(arguments)}: {', '.join(map(describe, arguments))}"
    if issubclass(kind, Sequence | AbstractSet):
        return f"a list, each {describe(arguments[0])}" if arguments else "a list"
    return f"a {kind.__name__}"


def _bounds(metadata: Sequence[Any]) -> list[tuple[str, float]]:
    """The limits in annotations, pydantic's `Field` included: ("above", 0)."""
    found = []
    for each in metadata:
        found += _bounds(getattr(each, "metadata", ()))
        found += [(word, getattr(each, name)) for name, word in BOUNDS.items() if getattr(each, name, None) is not None]
    return found


def hints_of(cls: type[Any]) -> dict[str, Any]:
    """The annotation of each field."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"{cls.__module__}:{cls.__qualname__}: an annotation cannot be resolved, {error}. "
            "Import that name outside of TYPE_CHECKING, or annotate the field with Any."
        ) from error


def _complaint(error: ValidationError, hint: Any, node: Node, path: str) -> str:
    """What is wrong with a field, from pydantic's first complaint."""
    first = error.errors()[0]
    for key in first["loc"][1:]:
        if node.is_table and key in node.value:
            node, path, hint = node.value[key], f"{path}.{key}", _hint_within(hint, str(key))
    if first["type"] == "unexpected_keyword_argument":
        return f"{node.where}: {path}: there is no such field"
    reason = f" ({first['msg']})" if first["type"] in ("value_error", "assertion_error") else ""
    reason = f", and finite{_instead(path)}" if first["type"] == "finite_number" else reason
    return f"{node.where}: {path}: found {show(node.plain())}, allowed: {describe(hint)}{reason}"


def _hint_within(hint: Any, key: str) -> Any:
    """The annotation of a field of what a hint allows; the hint where none of it has such a field."""
    inner = [each for some in typing.get_args(hint) for each in (some, *typing.get_args(some))]
    of = (each for each in (hint, *inner) if isinstance(each, type) and dataclasses.is_dataclass(each))
    return next((hints_of(each)[key] for each in of if key in hints_of(each)), hint)


def _instead(path: str) -> str:
    """What to write for a number that is not finite, where it had a meaning."""
    advice = value_advice(path)
    return f"; {advice}" if advice else ""


def _is_data(value: Any) -> bool:
    """Whether JSON can carry it and bring back the same."""
    if isinstance(value, list):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_data(each) for key, each in value.items())
    return value is None or isinstance(value, bool | int | float | str)
