"""What the rows of a store say, and what is wrong with one that says nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from alignzoo.errors import DataError, RunError
from alignzoo_human.items import Item, Settings, check, text_of, written
from alignzoo_human.votes import Kind, Value

WRONG = (DataError, ValueError, TypeError, LookupError, AttributeError, RecursionError, sqlite3.OperationalError)
"""What reading a damaged row raises."""


class Reading:
    """A context in which rows are read: a damaged one is an error that names the file and the row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row = "a row"

    def at(self, table: str, number: int | None = None) -> None:
        """Say which row is read next; None: one of the table's."""
        self.row = f"a row of its table {table}" if number is None else f"row {number} of its table {table}"

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error) and "malformed JSON" not in str(error):
            raise RunError(
                f"the store {self.path} cannot be read: {error}. Put a copy of it in its place, or give another file"
            ) from error
        if isinstance(error, WRONG):
            raise RunError(
                f"the store {self.path} is damaged: {self.row} is none that alignzoo writes "
                f"({type(error).__name__}: {str(error)[:200]}). Put an earlier copy of the file in its place, or give "
                "another file"
            ) from error


def settings_of(text: str) -> Settings:
    """The settings of a store."""
    known = json.loads(text)
    if not isinstance(known, dict):
        raise ValueError(f"the settings are {str(known)[:80]!r}")
    found = Settings(**known | {"criteria": tuple(known["criteria"]), "salt": known["salt"]})
    for each in fields(Settings):
        value, usual = getattr(found, each.name), type(each.default)
        if type(value) not in ((int, float) if usual is float else (usual,)):
            raise ValueError(f"its setting {each.name} is {value!r}")
    return found


def item_of(kind: Any, asked: str, origins: str, gold: str | None) -> Item:
    """An item of a store."""
    said = json.loads(asked)
    check(kind, len(said["answers"]))
    answers = tuple(map(text_of, said["answers"]))
    known = None if gold is None else value_of(gold)
    return Item(kind, text_of(said["prompt"]), answers, tuple(json.loads(origins)), said["criterion"], known)


def screen_of(text: str, n: int) -> tuple[int, ...]:
    """The order in which a rater saw n answers."""
    screen = tuple(json.loads(text))
    if sorted(screen) != list(range(n)):
        raise ValueError(f"{text!r} is no order of {n} answers")
    return screen


def value_of(text: str) -> Value:
    """A verdict."""
    value = json.loads(text)
    return tuple(value) if isinstance(value, list) else float(value)


def verdict_of(text: str, kind: Kind, n: int) -> Value:
    """A verdict of this kind on n answers."""
    value = value_of(text)
    if isinstance(value, tuple):
        fits = kind == "ranking" and len(value) == n and all(type(rank) is int and 1 <= rank <= n for rank in value)
    else:
        fits = value in (0, 0.5, 1) if kind == "pair" else kind == "grade" and value >= 1
    if not fits:
        raise ValueError(f"{text!r} is no verdict on a {kind} of {n}")
    return value


def or_null(value: Any) -> str | None:
    """A value as it is stored."""
    return None if value is None else written(value)


def reasons_of(text: str | None) -> dict[str, Any]:
    """The reasons for a verdict, in the item's own order."""
    return dict(json.loads(text)) if text else {}


def placed(reasons: Mapping[str, Any], screen: Sequence[int], *, back: bool = False) -> dict[str, Any]:
    """Reasons with those of each answer in the item's order, or back in the screen's."""
    found = dict(reasons)
    if answers := list(found.get("answers") or []):
        places = {item: place for place, item in enumerate(screen)}
        order = screen if back else [places[item] for item in range(len(screen))]
        found["answers"] = [answers[place] if place < len(answers) else None for place in order]
    return found
