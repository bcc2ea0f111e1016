"""Large files -> prompts that stay in them: read through once, with every check, and known again at the next start.

The index lies in a folder of the user's cache, `alignzoo/data` in XDG_CACHE_HOME or ~/.cache: some 20 bytes a row,
no text of it. It is made anew where a file's size or time, or a setting by which it is read, has changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alignzoo.data.indexed import FACTS, Index, Indexed, Source
from alignzoo.errors import DataError
from alignzoo.files import read_json
from alignzoo.types import Prompt

FORMAT = 1
"""The version of an index; another number makes old ones unknown."""

CODES = {"u8": "Q", "u2": "H", "?": "B"}
"""Types of facts in the notation of `array`."""

FLUSHED = 2**16
"""Rows between two writes of the index."""

COLUMNS = {"key": "u8", **{name: kind for name, (kind, _) in FACTS.items()}}


class Parser(Protocol):
    """Makes prompts of rows, and finds out their format by the first one."""

    @property
    def format(self) -> str: ...

    def __call__(self, raw: Any, where: str) -> Prompt: ...


def indexed(
    sources: Sequence[Source],
    settings: Mapping[str, Any],
    parser: Callable[[str], Parser],
    *,
    limit: int,
    watch: Callable[[Prompt], None],
) -> Indexed:
    """The prompts of these sources.

    `parser` makes a parser of rows of a format. `settings` are all by which it reads them, the format among them.
    `watch` is shown every prompt of a first pass.
    """
    stamp = _stamp(sources, {**settings, "limit": limit})
    folder = _folder(stamp)
    if not _is(folder, stamp):
        _make(folder, stamp, sources, parser(settings["format"]), limit, watch)
    about = read_json(folder / "index.json", error=DataError)
    columns = {name: np.memmap(folder / name, dtype=kind, mode="r") for name, kind in COLUMNS.items()}
    index = Index(tuple(about["starts"]), columns, frozenset(about["names"]))
    return Indexed(sources, parser(about["format"]), index)


def _stamp(sources: Sequence[Source], settings: Mapping[str, Any]) -> dict[str, Any]:
    """By what an index is known again."""
    stats = [(os.path.abspath(file), file.stat()) for each in sources for file in each.files]
    files = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    told: dict[str, Any] = json.loads(json.dumps({"version": FORMAT, "files": files, "settings": dict(settings)}))
    return told


def _folder(stamp: Mapping[str, Any]) -> Path:
    """The index's folder, by its paths and settings first, and then by the files' sizes and times."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignzoo" / "prompts"
    known = [[path for path, _, _ in stamp["files"]], stamp["settings"]]
    first, second = (
        hashlib.blake2b(json.dumps(each, sort_keys=True).encode(), digest_size=12) for each in (known, stamp)
    )
    return home / f"{first.hexdigest()}-{second.hexdigest()}"


def _is(folder: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether the folder holds the index of this stamp; one that is damaged is none."""
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in COLUMNS}
    except (OSError, ValueError):
        return False
    whole = {name: about["rows"] * np.dtype(kind).itemsize for name, kind in COLUMNS.items()}
    return bool(about["stamp"] == stamp and sizes == whole)


def _make(
    folder: Path,
    stamp: Mapping[str, Any],
    sources: Sequence[Source],
    parse: Parser,
    limit: int,
    watch: Callable[[Prompt], None],
) -> None:
    """Read everything once, and write the index: whole or not at all."""
    from rich.console import Console
    from rich.progress import Progress

    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"the index of {sources[0].path} cannot be written: {error}. Name another folder by XDG_CACHE_HOME"
        ) from error
    try:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("reading the data once", total=None)
            about = _written(partial, sources, parse, limit, watch, lambda rows: bar.update(task, advance=rows))
        text = json.dumps(about | {"stamp": stamp, "format": parse.format})
        (partial / "index.json").write_text(text, encoding="utf-8")
        if folder.exists() and not _is(folder, stamp):
            shutil.rmtree(folder)  # a damaged one
        try:
            partial.rename(folder)
        except OSError:
            if not _is(folder, stamp):  # else another process has just made the same
                raise
        for former in set(folder.parent.glob(f"{folder.name.partition('-')[0]}-*")) - {folder}:
            shutil.rmtree(former, ignore_errors=True)  # of the files as they were before
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _written(
    partial: Path,
    sources: Sequence[Source],
    parse: Parser,
    limit: int,
    watch: Callable[[Prompt], None],
    told: Callable[[int], None],
) -> dict[str, Any]:
    """Write the columns of the index, some rows at a time, so that memory does not grow with the rows."""
    rows, starts, names = 0, [], set[str]()
    buffers = {name: array(CODES[kind]) for name, kind in COLUMNS.items()}
    for source in sources:
        starts.append(rows)
        for number, (key, raw) in enumerate(itertools.islice(source.scan(), limit - rows if limit else None), 1):
            prompt = parse(raw, f"{source.path}, row {number}")
            watch(prompt)
            names.update(prompt.info)
            buffers["key"].append(key)
            for name, (_, found) in FACTS.items():
                buffers[name].append(found(prompt))
            rows += 1
            if rows % FLUSHED == 0:
                _flush(partial, buffers)
                told(FLUSHED)
    _flush(partial, buffers)
    return {"rows": rows, "starts": starts, "names": sorted(names)}


def _flush(partial: Path, buffers: dict[str, array[int]]) -> None:
    for name, buffer in buffers.items():
        with (partial / name).open("ab") as file:
            buffer.tofile(file)
        del buffer[:]
