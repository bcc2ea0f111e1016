"""Plain data -> TOML: how a resolved recipe is shown to a reader."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

BARE = re.compile(r"[A-Za-z0-9_-]+")
WIDTH = 100
"""Where a table on one line becomes a table of lines."""


def toml_text(table: Mapping[str, Any], path: str = "") -> str:
    """A table, its sub-tables and lists of tables as TOML; a sub-table that fits on a line stays on one."""
    lines: list[str] = []
    below: list[str] = []
    for key, value in table.items():
        name = f"{path}.{_key(key)}".lstrip(".")
        if isinstance(value, Mapping) and len(line := f"{_key(key)} = {toml_value(value)}") > WIDTH:
            below.append(f"[{name}]\n{toml_text(value, name)}")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            below += [f"[[{name}]]\n{toml_text(each, name)}" for each in value]
        elif value is not None:
            lines.append(line if isinstance(value, Mapping) else f"{_key(key)} = {toml_value(value)}")
    return "\n".join([*(["\n".join(lines) + "\n"] if lines else []), *below])


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value)
        case Mapping():
            return "{ " + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items()) + " }" if value else "{}"
        case list() | tuple():
            return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else json.dumps(key)
