"""CSV files: every cell is the text that stands there, and what is read as a number keeps its digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from alignzoo.data.row import finite
from alignzoo.errors import DataError
from alignzoo.types import Prompt

CURE = "It must be a CSV file in UTF-8 with a line of column names, and one row or more."


class Cells(dict[str, Any]):
    """A row of a CSV file: every value is a string, as it stands there."""


def csv_rows(path: Path, opened: Callable[[Path], AbstractContextManager[BufferedIOBase]]) -> Iterator[Cells]:
    """The rows of a CSV file. No type is guessed: 007 is no 7, and NA no gap."""
    csv.field_size_limit(1 << 30)
    with opened(path) as file:
        lines = csv.reader(io.TextIOWrapper(cast(BinaryIO, file), "utf-8-sig", newline=""), strict=True)
        try:
            names = next(lines, [])
            if not any(names):
                raise DataError(f"{path} cannot be read: No columns. {CURE}")
            other = next((mark for mark in ";\t|" if mark in names[0]), "") if len(names) == 1 else ""
            if other:
                raise DataError(
                    f"{path}, line 1: the names are separated by {other!r}, where ',' is read. Save it with commas."
                )
            if len(set(names)) < len(names):
                raise DataError(f"{path}: two columns have one name, of {', '.join(names)}. Rename one of them.")
            empty = True
            for cells in lines:
                if not cells:
                    continue  # an empty line
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}, line {lines.line_num}: expected {len(names)} cells, found {len(cells)}. A text with "
                        'commas stands between quotes, "like, this".'
                    )
                empty = False
                yield Cells(zip(names, cells, strict=True))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {lines.line_num + 1}: not UTF-8 text ({error.reason}). Save it as UTF-8."
            ) from error
        except csv.Error as error:
            raise DataError(f"{path} cannot be read: line {lines.line_num}: {error}. {CURE}") from error
        if empty:
            raise DataError(f"{path} cannot be read: it has no rows. {CURE}")


def with_numbers(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a CSV file with the columns of their info as numbers where every cell is one, written as numbers
    are: a column with 007 or 1.50 stays text. An empty cell is a missing number."""
    names = {name for prompt in prompts for name in prompt.info}
    columns = {name: [_number(prompt.info.get(name)) for prompt in prompts] for name in names}
    whole = {
        name
        for name, values in columns.items()
        if not any(isinstance(value, str) for value in values) and any(value is not None for value in values)
    }
    return [
        replace(prompt, info={**prompt.info, **{name: columns[name][row] for name in whole if name in prompt.info}})
        for row, prompt in enumerate(prompts)
    ]


def _number(cell: Any) -> Any:
    """A cell's number where its text is how that number is written; None where it is empty; or the cell."""
    if not isinstance(cell, str) or not cell:
        return cell or None
    for kind in (int, float):
        try:
            value = kind(cell)
        except ValueError:
            continue
        if finite(value) and repr(value) == cell:
            return value
    return cell
