"""Data files of every format and ending, with values, columns, rows or bytes that are wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignzoo.data import Data, read
from alignzoo.data.formats import FORMATS
from alignzoo.data.reading import READERS
from alignzoo.errors import DataError
from alignzoo.types import Prompt
from faults.generated import Short, check_told, odd

TURNS = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
USUAL: dict[str, Any] = {
    "completions": ["one", "two"],
    "scores": [1.0, 0.5],
    "ranks": [1, 2],
    "label": True,
    "labels": [True, False],
    "messages": TURNS,
    "preference": 1,
    "annotator1": 1,
}
"""What columns hold that are no plain text."""


def case(rng: random.Random, folder: Path) -> None:
    """Write a file with something wrong, read it, and look at what comes of it."""
    name = rng.choice(sorted(FORMATS))
    rows = [_row(rng, name, number) for number in range(rng.choice((1, 2, 6)))]
    _spoil(rng, rows)
    ending = rng.choice(sorted(READERS))
    path = folder / f"rows{ending}"
    content = _written(rng, rows, ending)
    touched = rng.random() < 0.4
    path.write_bytes(odd.damaged(rng, content) if touched else content)
    if rng.random() < 0.06:
        _replaced(rng, path)
    data = Data(str(path), format=rng.choice(("auto", name, rng.choice(sorted(FORMATS)))))
    if rng.random() < 0.1:
        data = replace(data, columns={rng.choice(("prompt", "chosen", "x")): rng.choice(("prompt", "nope", "y"))})
    try:
        prompts = read(data)
    except DataError as error:
        check_told(error, path.name)
        return
    if not prompts or not all(isinstance(prompt, Prompt) for prompt in prompts):
        raise Short(f"it was read as {str(prompts)[:200]}")
    if not touched and path.is_file() and ending.startswith(".json") and len(prompts) != len(rows):
        raise Short(f"{len(rows)} rows were read as {len(prompts)} prompts")
    for prompt in prompts:
        for text in (prompt.messages, *prompt.completions):
            json.dumps(text, ensure_ascii=False).encode()  # what no tokenizer could read is refused


def _row(rng: random.Random, name: str, number: int) -> dict[str, Any]:
    form = FORMATS[name]
    names = [*form.columns, *(each for each in form.optional if rng.random() < 0.3)]
    row = {each: USUAL.get(each, f"{form.opening}{each} {number}") for each in names}
    if form.opening:
        row |= {each: f"{form.opening} q{number}\n\nAssistant: {each}" for each in form.columns}
    return row | ({"annotator1": 1} if "response1" in row else {})


def _spoil(rng: random.Random, rows: list[Any]) -> None:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        row = rng.choice(rows)
        if not isinstance(row, dict) or not row:
            continue
        column = rng.choice(sorted(row))
        match rng.randrange(6):
            case 0 | 1 | 2:
                row[column] = odd.value(rng)
            case 3:
                del row[column]
            case 4:
                row[rng.choice(("extra", "", "prompt", "system", "label", "\u2028"))] = odd.value(rng)
            case 5:
                rows[rng.randrange(len(rows))] = odd.value(rng)


def _written(rng: random.Random, rows: list[Any], ending: str) -> bytes:
    """The rows in this ending's way; for one that is not known here, as it comes."""
    ascii_only = rng.random() < 0.5
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    if ending.startswith(".jsonl"):
        content = "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    elif ending.startswith(".json"):
        text = f"[{', '.join(lines)}]"
        content = (f'{{"data": {text}}}' if rng.random() < 0.1 else text).encode("utf-8", "surrogatepass")
    elif ending == ".csv":
        content = _csv(rows)
    elif ending == ".parquet":
        content = _parquet(rows)
    else:
        content = rng.randbytes(100)
    return gzip.compress(content, mtime=0) if ending.endswith(".gz") else content


def _csv(rows: list[Any]) -> bytes:
    tables = [row for row in rows if isinstance(row, dict)]
    names = list(dict.fromkeys(str(name) for row in tables for name in row))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([row.get(name, "") for name in names] for row in tables)
    return out.getvalue().encode("utf-8", "surrogatepass")


def _parquet(rows: list[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)]), out)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, UnicodeError, AttributeError):
        return b"PAR1 what cannot be written as Parquet"
    return out.getvalue()


def _replaced(rng: random.Random, path: Path) -> None:
    """Something else stands where the file was."""
    content = path.read_bytes()
    path.unlink()
    match rng.randrange(5):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            os.mkfifo(path)
        case 4:
            path.mkdir()
            (path / "dataset_info.json").write_bytes(content)
            shutil.copytree(path, path / "inner")
