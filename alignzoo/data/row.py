"""A row of a dataset, and what its columns hold: every value checked, every error with file, row and column."""

from __future__ import annotations

import ast
import itertools
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from alignzoo.errors import DataError, did_you_mean
from alignzoo.types import Message, Text

ROLES = ("system", "user", "assistant")
"""Who speaks in a conversation."""


@dataclass(frozen=True)
class Row:
    """A row and where it stands, so that what is wrong with it is said with file, row and column."""

    columns: Mapping[str, Any]
    where: str
    """The file, the row counted from 1, and the format it is read as."""
    untyped: bool = False
    """Every value is a string, as in a CSV file, and is read as what its column asks for."""

    def wrong(self, column: str, problem: str) -> DataError:
        """The error to raise about a column."""
        from alignzoo.data.formats import accepted

        return DataError(f"{self.where}, column {column!r}: {problem}\n{accepted()}")

    def value(self, column: str) -> Any:
        """Whatever the column holds."""
        if column not in self.columns:
            raise self.wrong(column, f"it is missing. {did_you_mean(column, self.columns)}")
        return self.columns[column]

    def string(self, column: str) -> str:
        """A string, empty or not."""
        value = self.value(column)
        if not isinstance(value, str):
            raise self.wrong(column, f"expected a string, found {found(value)}.")
        return self.whole(column, value)

    def items(self, column: str) -> list[Any]:
        """A list."""
        value = self.value(column)
        if self.untyped and isinstance(value, str):
            value = _loaded(value)
        if not isinstance(value, list | tuple):
            raise self.wrong(column, f"expected a list, found {found(self.value(column))}.")
        return list(value)

    def truth(self, column: str) -> bool:
        """True or false."""
        value = self.value(column)
        if self.untyped and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
        if not isinstance(value, bool):
            raise self.wrong(column, f"expected true or false, found {found(value)}.")
        return value

    def whole(self, column: str, text: str) -> str:
        """A text that can be written down: no letter of it is cut in half."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])[1:-1]
            raise self.wrong(column, f"it has half a letter, {half}: a surrogate without its pair.") from error
        return text

    def text(self, column: str) -> Text:
        """A text that is not empty; of a conversation, the last turn is not."""
        text = self.as_text(column, self.value(column))
        if not (text if isinstance(text, str) else text[-1]["content"]):
            raise self.wrong(column, "it is empty.")
        return text

    def reply(self, column: str, to: Text) -> Text:
        """A text that is not empty, of the prompt's kind, and the assistant's."""
        return self.as_reply(column, self.text(column), to)

    def as_text(self, column: str, value: Any) -> Text:
        """A value as a text. A string that spells a conversation, as CSV files have them, is one."""
        if isinstance(value, str):
            value = self._spelt(column, self.whole(column, value))
        if isinstance(value, str):
            return value
        if not isinstance(value, list | tuple) or not value:
            raise self.wrong(column, f"expected a text, found {found(value)}.")
        turns = tuple(self.as_message(f"{column}[{index}]", turn) for index, turn in enumerate(value))
        for index, (one, other) in enumerate(itertools.pairwise(turns), 1):
            if one["role"] == other["role"] == "assistant" and one["content"]:
                raise self.wrong(
                    f"{column}[{index}]",
                    "it is the assistant's turn, and so is the one before it: join the two, as a model ends its turn "
                    "only once.",
                )
        return turns

    def _spelt(self, column: str, text: str) -> Any:
        """The conversation that a string spells in JSON, or as Python prints it; or the string itself."""
        start = text.lstrip()
        if not start.startswith(("[{", "[ {", "[\n")) or "role" not in start or "content" not in start:
            return text
        turns = _loaded(text)
        if isinstance(turns, list) and all(
            isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns
        ):
            return turns
        if turns is None and start.startswith(("[{'role'", '[{"role"', "[{'content'", '[{"content"')):
            raise self.wrong(column, f"it looks like a conversation, but is no JSON: {found(text)}.")
        return text

    def as_message(self, column: str, turn: Any) -> Message:
        """A turn as a message: its role and content, and nothing else that says something."""
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise self.wrong(column, f'expected {{"role", "content"}} in text, found {found(turn)}.')
        role, content = turn.get("role"), self.whole(column, turn["content"])
        if role not in ROLES:
            raise self.wrong(column, f"unknown role {role!r}. Known: {', '.join(ROLES)}.")
        # Parquet gives every message the keys of all, filled with nulls.
        others = sorted(key for key in turn if key not in ("role", "content") and turn[key] not in (None, "", [], {}))
        if others:
            raise self.wrong(column, f"only role and content can be kept, found {', '.join(others)}.")
        return {"role": role, "content": content}

    def as_reply(self, column: str, text: Text, to: Text) -> Text:
        """A text as a reply: of the prompt's kind, and the assistant's."""
        if isinstance(text, str) != isinstance(to, str):
            wanted, got = ("a string", "a conversation") if isinstance(to, str) else ("a conversation", "a string")
            raise self.wrong(column, f"expected {wanted}, found {got}; the texts of a row are all of one kind.")
        if not isinstance(text, str) and text[-1]["role"] != "assistant":
            raise self.wrong(column, f"expected the assistant's turn at its end, found the {text[-1]['role']}'s.")
        return text

    def rename(self, columns: Mapping[str, str]) -> Row:
        """The same row under our names; `columns` maps our name to the file's."""
        if not columns:
            return self
        for ours, theirs in columns.items():
            if theirs not in self.columns:
                hint = did_you_mean(theirs, self.columns)
                raise DataError(f"{self.where}: columns.{ours} = {theirs!r}, but there is no such column. {hint}")
        kept = {name: value for name, value in self.columns.items() if name not in columns.values()}
        for ours in sorted(kept.keys() & columns.keys()):
            raise DataError(
                f"{self.where}: columns.{ours} = {columns[ours]!r} would hide the file's own column {ours!r}. "
                f"Rename that one too: columns.old_{ours} = {ours!r}."
            )
        return replace(self, columns=kept | {ours: self.columns[theirs] for ours, theirs in columns.items()})


def finite(value: Any) -> bool:
    """Whether a value is a number, and one that a float holds."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def found(value: Any) -> str:
    """A value's type and a short look at it, for errors."""
    return "null" if value is None else f"{type(value).__name__} {_SHORT.repr(value)}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _loaded(text: str) -> Any:
    """The value that a cell spells in JSON or as Python prints it; None where it spells none."""
    for load in (json.loads, ast.literal_eval):
        try:
            return load(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
