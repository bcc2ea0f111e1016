"""Datasets -> prompts: files, directories and hub datasets become lists of `Prompt`, split into train and held-out.

What a row may look like is in `alignzoo.prompts.formats`. JSON and JSON Lines are read with the standard library; the
`datasets` library is imported only for everything else.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import hashlib
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from alignzoo.errors import DataError, did_you_mean
from alignzoo.files import check_kind, decoded
from alignzoo.prompts.cells import Cells, csv_rows, with_numbers
from alignzoo.prompts.formats import FORMATS, Row, accepted, check_fits, found, parse, recognise
from alignzoo.prompts.turns import Chat, opened
from alignzoo.types import Prompt


@dataclass(frozen=True)
class Data:
    """The user's own data: a recipe's `data` table."""

    path: str = ""
    """A .jsonl, .json (either also .gz), .parquet or .csv file, a directory that `datasets` saved, or a hub dataset:
    "owner/name", or "owner/name:config" where it has several."""
    format: str = "auto"
    """What the rows are: scores, ranks, preference, hh, preference-implicit, unpaired, prompt-completion, alpaca,
    pandalm, alpaca-eval, messages, prompt-only or text; "auto": what the first row fits, as all rows must."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name of a column -> the file's, where they differ: { prompt = "question" }."""
    split: str = "train"
    """Which split of a hub dataset or of a saved dictionary of datasets to train on."""
    limit: Annotated[int, Ge(0)] = 0
    """Read only the first so many rows; 0: all."""
    heldout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """The share of prompts kept for evaluation, unless `heldout_path` or `heldout_split` brings others."""
    heldout_path: str = ""
    """Where the held-out rows are, in the same format; "": in `path`."""
    heldout_split: str = ""
    """Which split they are; "": the same name as `split`."""
    chat: Chat = "auto"
    """What a text is: a user's turn where the model has a chat template (auto), in any case (user), or a text to be
    continued as it stands (plain)."""
    system: str = ""
    """What the system says before each prompt that has no system's turn of its own; "": nothing."""
    too_long: Literal["cut", "drop", "error"] = "cut"
    """What becomes of a row that does not fit into the model's context: a prompt loses its first turns, an answer its
    end (cut); the row is left out (drop); or the run does not start (error)."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns of a conversation, given as `messages`, are trained on."""
    rows: Any = None
    """Rows in the place of `path`, from Python: dicts, prompts, a dataset or a table."""

    def __post_init__(self) -> None:
        if not self.path and self.rows is None:
            raise DataError("path is missing: say where the data are")


class Rows:
    """Rows that were given in Python: a recipe carries them, and shows them as an object that no file holds."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.rows is other.rows

    def __hash__(self) -> int:
        return id(self.rows)


def read(data: Data) -> list[Prompt]:
    """Every row of `data.path`, up to `data.limit`, as a prompt. DataError says what is wrong, and where."""
    source = "the data" if data.rows is not None else data.path
    given = data.rows.rows if isinstance(data.rows, Rows) else data.rows
    rows = _rows(data.path, data.split) if given is None else _split_of(given, data.split)
    some = islice(rows_of(rows, source), data.limit or None)
    return from_rows(some, source=source, format=data.format, columns=data.columns, turns=data.turns)


def from_rows(
    rows: Any,
    *,
    source: str = "the data",
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    turns: Literal["all", "last"] = "last",
) -> list[Prompt]:
    """Rows as prompts: dicts or prompts in a list, a `datasets.Dataset`, or a table of pandas or polars. `source` is
    what errors call them. `turns` says which of the assistant's turns of `messages` are the completion."""
    if format != "auto" and format not in FORMATS:
        raise DataError(f"{source}: no format is called {format!r}. {did_you_mean(format, ['auto', *FORMATS])}")
    prompts: list[Prompt] = []
    untyped, found_out = False, format == "auto"
    for number, raw in enumerate(rows_of(rows, source), 1):
        if isinstance(raw, Prompt):
            prompts.append(raw)
            continue
        if not isinstance(raw, Mapping):
            raise DataError(f"{source}, row {number}: expected an object, found {found(raw)}.\n{accepted()}")
        untyped = isinstance(raw, Cells)
        row = Row(raw, f"{source}, row {number}", untyped).rename(columns or {})
        if format == "auto":
            format = recognise(row)
        elif found_out:
            check_fits(row, format)
        prompt = parse(row, format)
        prompts.append(opened(prompt) if turns == "all" and format == "messages" else prompt)
    if not prompts:
        raise DataError(f"{source} holds no rows. Give at least one.\n{accepted()}")
    _warn_of_echoes(prompts, source)
    return with_numbers(prompts) if untyped else prompts


def rows_of(rows: Any, source: str) -> Iterable[Any]:
    """What was given as rows, one after the other; tables of pandas and polars too."""
    if isinstance(rows, Mapping):
        raise DataError(f"{source}: expected rows, found a mapping. Give the value of {' or '.join(map(repr, rows))}.")
    if hasattr(rows, "to_dicts"):  # polars
        return list(rows.to_dicts())
    if hasattr(rows, "to_dict") and hasattr(rows, "notna"):  # pandas, where what is missing is NaN
        return [
            {key: value.tolist() if hasattr(value, "tolist") else value for key, value in row.items()}
            for row in rows.astype(object).where(rows.notna(), None).to_dict("records")
        ]
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise DataError(f"{source}: expected rows, found {found(rows)}. Give a list of dicts, a dataset or a table.")
    return rows


def _split_of(rows: Any, split: str) -> Any:
    """The split of a dictionary of datasets; rows that are none as they are."""
    if not isinstance(rows, Mapping):
        return rows
    if split not in rows:
        raise DataError(
            f"the data are a mapping without a split {split!r}. {did_you_mean(split, rows)} Say which with data.split; "
            "columns become rows by datasets.Dataset.from_dict."
        )
    return rows[split]


def _warn_of_echoes(prompts: Sequence[Prompt], source: str) -> None:
    """Say where text answers all begin with their whole prompt, which they would say twice."""
    texts = [(prompt.messages, text) for prompt in prompts for text in prompt.completions]
    echoes = [
        isinstance(asked, str) and isinstance(text, str) and text.startswith(asked) for asked, text in texts if asked
    ]
    if len(echoes) > 1 and all(echoes):
        warnings.warn(
            f"{source}: each of the {len(echoes)} answers begins with its whole prompt, and is trained on as it is, "
            "the prompt said twice: cut it off the answers, or leave the prompt out (format preference-implicit) "
            "unless they are meant to repeat it",
            stacklevel=3,
        )


def train_and_heldout(data: Data) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to train on and those to evaluate on, which share none.

    Where the held-out rows have a place of their own, training rows with one of their prompts are left out, with a
    warning.
    """
    prompts = read(data)
    if not (data.heldout_path or data.heldout_split):
        return split(prompts, data.heldout)
    place = replace(
        data,
        path=data.heldout_path or data.path,
        rows=None if data.heldout_path else data.rows,
        split=data.heldout_split or data.split,
    )
    heldout, source = read(place), data.path or "the given rows"
    seen = set(map(_identity, heldout))
    train = [prompt for prompt in prompts if _identity(prompt) not in seen]
    if not train:
        raise DataError(
            f"{source}: every prompt is also held out, in {place.path or source}. Give other held-out data."
        )
    if len(train) < len(prompts):
        shared = len(prompts) - len(train)
        warnings.warn(f"{source}: rows left out of training, for their prompts are held out: {shared}.", stacklevel=2)
    return train, heldout


def split(prompts: Sequence[Prompt], heldout: float) -> tuple[list[Prompt], list[Prompt]]:
    """Hold out about this share of the prompts, one at least; rows with the same prompt stay together.

    Each prompt's text decides by its hash, whatever the order and the other rows: more data later never hold back
    what was trained on before. The one exception is the lowest hash, held out where no other is.
    """
    if not heldout:
        return list(prompts), []
    points = [_point(prompt) for prompt in prompts]
    highest = max(heldout, min(points))
    train = [prompt for prompt, point in zip(prompts, points, strict=True) if point > highest]
    if not train:
        raise DataError(
            f"too few different prompts ({len(set(points))}) to hold out a share of {heldout:g} and train on the rest. "
            "Give more, or another heldout (0: none), or heldout_path."
        )
    return train, [prompt for prompt, point in zip(prompts, points, strict=True) if point <= highest]


def _identity(prompt: Prompt) -> str:
    """What makes two rows the same prompt: its text, or the completions' where nothing is asked."""
    return json.dumps(prompt.messages or prompt.completions, default=dict, sort_keys=True)


def _point(prompt: Prompt) -> float:
    """The prompt's own place between 0 and 1."""
    return int.from_bytes(hashlib.sha256(_identity(prompt).encode()).digest()[:8], "big") / 2**64


def _rows(path: str, split: str) -> Iterable[Any]:
    """The rows of a file, a directory or a hub dataset, one after the other."""
    if not path.strip():
        raise DataError("data.path is empty: give a file, a directory that `datasets` saved, or a hub dataset.")
    place = Path(path).expanduser()
    check_kind(place)
    reader = next((reader for ending, reader in READERS.items() if path.lower().endswith(ending)), None)
    if place.is_dir():
        return _saved(place, split)
    if place.is_file():
        if reader is None:
            raise DataError(f"{path}: no reader for this ending. Known: {', '.join(READERS)}.")
        return reader(place)
    # "data/pairs" is a misspelt path where there is a directory "data", and a hub dataset where there is none.
    if reader is None and re.fullmatch(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?", path) and not place.parent.is_dir():
        return _hub(path, split)
    if not place.parent.is_dir():
        raise DataError(f"{path}: no such file, and no directory {place.parent} either.")
    neighbours = [file.name for file in place.parent.iterdir() if not file.name.startswith(".")]
    nearest = difflib.get_close_matches(place.name, neighbours, n=8, cutoff=0)
    raise DataError(f"{path}: no such file. {did_you_mean(place.name, nearest)}")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, unpacked when its name ends in .gz."""
    zipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        cure = " A name that ends in .gz wants a whole gzip file." if zipped else ""
        raise DataError(f"{path} cannot be read: {error}.{cure}") from error


def _json_lines(path: Path) -> Iterator[Any]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield decoded(line.rstrip(), path, line=number, fix="One object a line; a list goes into a .json file.")


def _json(path: Path) -> Iterable[Any]:
    with _opened(path) as file:
        content = file.read().rstrip()
    cure = "A list of objects; one object a line goes into a .jsonl file."
    rows = decoded(content, path, fix=cure) if content else []
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected a list of objects, or {{"data": [...]}}, found {found(rows)}.')
    return rows


def _parquet(path: Path) -> Iterable[Any]:
    cure = " It must be a Parquet file with one row or more."
    return _by_datasets(lambda hf: hf.Dataset.from_parquet(glob.escape(str(path))), f"{path} cannot be read", cure)


def _csv(path: Path) -> Iterable[Any]:
    return csv_rows(path, _opened)


def _saved(path: Path, split: str) -> Iterable[Any]:
    cure = " Give what datasets' save_to_disk wrote, or a single file."
    saved = _by_datasets(lambda hf: hf.load_from_disk(str(path)), f"{path} cannot be read", cure)
    if not isinstance(saved, Mapping):
        return saved
    if split not in saved:
        raise DataError(f"{path} has no split {split!r}. {did_you_mean(split, saved)}")
    rows: Iterable[Any] = saved[split]
    return rows


def _hub(path: str, split: str) -> Iterable[Any]:
    name, _, config = path.partition(":")
    cure = " Check its name, split and configuration, the network and HF_TOKEN, or give a local path."
    return _by_datasets(
        lambda hf: hf.load_dataset(name, config or None, split=split),
        f"{path} is no file here, and its split {split!r} cannot be fetched from the hub",
        cure,
    )


def _by_datasets(load: Callable[[ModuleType], Iterable[Any]], failed: str, cure: str = "") -> Iterable[Any]:
    """What `load` gets from the `datasets` library, whose many errors become one of ours that tells the first cause."""
    import datasets

    try:
        return load(datasets)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0].rstrip(".!") or type(cause).__name__
        raise DataError(f"{failed}: {reason}.{cure}") from error


READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json,
    ".json.gz": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}
"""How a file is read, by the ending of its name."""
