"""A translation as a recipe's text, with its three lists as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from alignzoo.report.toml_text import toml_text
from alignzoo_import.translating import Line, Translation
from alignzoo_import.values import word

WIDTH = 78

ORDER = ("policy", "data", "sampler", "reward", "optimizer", "schedule", "evaluate", "seed")

LONGEST = 60
"""Letters of a value that are shown."""


def lists(found: Translation) -> str:
    """What was translated, what has no effect here, and what is refused."""
    given = [line for line in found.translated if not line.default]
    defaults = [line for line in found.translated if line.default]
    title = f"{found.tool.title} {found.version}"
    parts = [
        _part("translated", _each(given)),
        _part(f"defaults of {title}, written out", _each(defaults)),
        _part("without effect here", _grouped(found.ignored)),
        _part("dropped, as was asked, though the result will differ", _each(found.dropped)),
        _part("refused: the result would differ", _each(found.refused)),
        _part("missing", (f"{path}: {text}" for path, text in found.missing.items())),
        _part("to know", found.to_know),
    ]
    return "\n".join(part for part in parts if part)


def recipe_text(found: Translation, source: str, version: str) -> str:
    """The recipe, its lists above it."""
    head = (
        f"Made by alignzoo {version} from {source}, a file of {found.tool.title}'s {found.method}, whose keys and "
        f"defaults are those of version {found.version}."
    )
    comments = [*textwrap.wrap(head, WIDTH - 2), "", *lists(found).rstrip().split("\n")]
    text = "\n".join(f"# {line}".rstrip() for line in comments)
    description = f"{found.method}, as {found.tool.title} has it in {source}"
    stage = {"name": found.settings["optimizer.name"], **nested(found.settings)}
    return f"{text}\n\ndescription = {toml_text({'_': description})[4:]}\n{toml_text({'stage': [stage]}).rstrip()}\n"


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings as tables, in a recipe's order."""
    tree: dict[str, Any] = {}
    for path in sorted(settings, key=lambda path: ORDER.index(path.partition(".")[0])):
        *parents, last = path.split(".")
        table = tree
        for parent in parents:
            inner = table.setdefault(parent, {})
            table = inner if isinstance(inner, dict) else table.__setitem__(parent, {}) or table[parent]
        table[last] = settings[path]
    return {key: _name_first(value) for key, value in tree.items()}


def _name_first(value: Any) -> Any:
    if isinstance(value, dict) and "name" in value:
        return {"name": value["name"]} | value
    return value


def _part(title: str, lines: Iterable[str]) -> str:
    """A list with its title; nothing where it is empty."""
    wrapped = [
        textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
        for line in lines
    ]
    return "\n".join([f"{title}:", *wrapped, ""]) if wrapped else ""


def _each(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        arrow = "->" if " = " in line.text.partition(";")[0] and not line.text.endswith(".") else ":"
        value = "" if line.value is None else f" = {_short(line.value)}"
        yield f"{line.key}{value} {arrow} {line.text}" if arrow == "->" else f"{line.key}{value}: {line.text}"


def _grouped(lines: Sequence[Line]) -> Iterator[str]:
    """Keys with the same reason together."""
    for why in dict.fromkeys(line.text for line in lines):
        keys = [line.key for line in lines if line.text == why]
        yield f"{', '.join(keys)}: {why}"


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, dict) else word(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
