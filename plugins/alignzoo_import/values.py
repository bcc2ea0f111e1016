"""The arithmetic of tables: what one value becomes, and what several make up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class Refused(Exception):
    """A value that has no counterpart; it says why, and what to do."""


def number(value: Any) -> float:
    """A number, or a refusal of what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"{value!r} is no number")
    return value


def whole(value: float) -> int | float:
    """An integer where it is one."""
    return int(value) if float(value).is_integer() else value


def _complement(value: Any) -> Any:
    return round(1 - number(value), 12)


def _names(value: Any) -> Any:
    """A list of names as one string; a single one stays."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _targets(value: Any) -> Any:
    """Names of modules, of which "all" are the linear ones."""
    return "all-linear" if value in ("all", ["all"]) else _names(value)


def _count(value: Any) -> Any:
    """How many steps; a share of them, or "every epoch", has no counterpart and changes no result."""
    return int(value) if not isinstance(value, bool) and isinstance(value, int | float) and value >= 1 else None


def _share(value: Any) -> Any:
    """A share of the rows; a number of rows cannot be told without the data."""
    if 0 <= number(value) < 1:
        return float(value)
    raise Refused("a number of rows: give their share, as in data.heldout=0.05")


def _texts(value: Any) -> Any:
    """The name of the column of texts, as a recipe has it."""
    return {"text": str(value)}


OPERATIONS: Mapping[str, Callable[[Any], Any]] = {
    "complement": _complement,
    "names": _names,
    "targets": _targets,
    "count": _count,
    "share": _share,
    "texts": _texts,
    "float": lambda value: float(number(value)),
    "int": lambda value: int(number(value)),
    "text": str,
}
"""What is done to a value before it is taken: None leaves it out."""


COMBINATIONS: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "product": lambda values: whole(math.prod(map(number, values))),
    "sum": lambda values: whole(sum(map(number, values))),
    "twice": lambda values: 2 * float(number(values[0])),
    "list": list,
}
"""What several values make up."""


def divided(value: Any, by: float, *, whole_only: bool) -> Any:
    """A quotient, which may have to be whole."""
    quotient = number(value) / by
    if whole_only and not float(quotient).is_integer():
        raise Refused(f"{value:g} is no multiple of {by:g}, as it has to be")
    return whole(quotient)


def fits(conditions: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether keys have the values that conditions ask for."""
    return all(_fits(wanted, values.get(key)) for key, wanted in conditions.items())


def _fits(wanted: Any, value: Any) -> bool:
    if wanted == "*":
        return not is_off(value)
    if wanted == "off":
        return is_off(value)
    if isinstance(wanted, str) and wanted[:2] in ("< ", "> "):
        limit = float(wanted[2:])
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value < limit if wanted[0] == "<" else value > limit
    if isinstance(wanted, list | tuple):
        return any(_fits(each, value) for each in wanted)
    return word(wanted) == word(value)


def is_one_of(value: Any, known: Iterable[Any]) -> bool:
    """Whether tables write a value as one of these."""
    return word(value) in map(word, known)


def names(name: Any, part: str) -> bool:
    """Whether a name, as a model's, has this part as words of its own, however these are joined: Meta-Llama-3-8B has
    llama3, and llama-30b has not."""
    letters = re.sub(r"[^a-z0-9]", "", re.sub(r"_nothink$", "", part.lower()))
    joined = r"[-_. ]*".join(letters)
    return bool(letters) and bool(
        re.search(rf"(?<![a-z]){joined}(?!{'[0-9]' if letters[-1].isdigit() else '[a-z]'})", str(name).lower())
    )


def is_off(value: Any) -> bool:
    """Whether a value switches its key off."""
    return value is None or value is False or value in (0, "", [], {}, "no", "none", "None", ())


def word(value: Any) -> str:
    """A value as tables write it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case list() | tuple():
            return "+".join(map(word, value))
    return str(value)
