"""Datasets -> prompts: files, directories and hub datasets become sequences of `Prompt`, split into train and held-out.

What a row may look like is in `alignzoo.data.formats`. JSON and JSON Lines are read with the standard library; the
`datasets` library is imported only for everything else. Large data stay in their files (`alignzoo.data.indexing`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Lt

from alignzoo.data.cells import Cells, with_numbers
from alignzoo.data.formats import FORMATS, Row, accepted, check_fits, found, parse, recognise
from alignzoo.data.indexed import chosen, fact
from alignzoo.data.indexing import indexed
from alignzoo.data.mixing import Part, in_turn, mixed
from alignzoo.data.packaged import located
from alignzoo.data.sources import READERS, Shards, check_split, rows_at
from alignzoo.data.turns import Chat, heard, opened
from alignzoo.errors import DataError, did_you_mean
from alignzoo.types import Prompt

__all__ = ["READERS", "Data", "Rows", "from_rows", "read", "split", "train_and_heldout"]

FEW = 10_000
"""A limit up to which only the first rows are read, and the rest of large data is not looked at."""


@dataclass(frozen=True)
class Data:
    """The user's own data: a recipe's `data` table."""

    path: str = ""
    """A .jsonl, .json (either also .gz), .parquet, .arrow or .csv file, a directory of such files of one kind (shards,
    read by name; where names say test, valid or dev, those of `split` alone), a directory that `datasets` saved, or a
    hub dataset: "owner/name", or "owner/name:config" where it has several. "package:NAME/FILE" is a file of an
    installed package, as a plugin's recipe brings it."""
    format: str = "auto"
    """What the rows are: scores, ranks, stepwise, preference, hh, preference-implicit, unpaired, prompt-completion,
    alpaca, pandalm, alpaca-eval, messages, prompt-only or text; "auto": what the first row fits, as all rows must, but
    for stepwise, which has to be said."""
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
    mix: tuple[Part, ...] = ()
    """Several sources in the place of `path`, a table each with a weight: [{path = "a.jsonl", weight = 2}, ...]."""

    def __post_init__(self) -> None:
        if self.mix and (self.path or self.rows is not None):
            raise DataError("mix has its sources' paths, and data.path another: give one of the two")
        if self.mix and (self.format != "auto" or self.columns or self.limit):
            raise DataError("format, columns and limit are each source's own in a mixture: give them there")
        if not self.path and self.rows is None and not self.mix:
            raise DataError("path is missing: say where the data are")


class Rows:
    """Rows that were given in Python: a recipe carries them, and shows them as an object that no file holds."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.rows is other.rows

    def __hash__(self) -> int:
        return id(self.rows)


def read(data: Data) -> Sequence[Prompt]:
    """Every row of `data.path`, up to `data.limit`, as a prompt. DataError says what is wrong, and where.

    Data of LARGE bytes or more, of kinds whose rows can be read one by one, are read through once and stay where they
    are.
    """
    given = data.rows.rows if isinstance(data.rows, Rows) else data.rows
    rows = rows_at(data.path, data.split) if given is None else _split_of(given, data.split)
    source = "the data" if data.rows is not None else data.path
    if not isinstance(rows, Shards):
        told = _told(rows, source)
    elif rows.large and not 0 < data.limit <= FEW:
        return _indexed(rows, data)
    else:
        told = rows.told()
    return _listed(islice(told, data.limit or None), Parser(source, data.format, data.columns, data.turns))


def prompts_of(data: Data) -> list[Prompt]:
    """The rows as a run asks them: `data.chat` and `data.system` say which texts are turns of a conversation."""
    return [*map(heard(data.chat, data.system), read(data))]


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
    return _listed(_told(rows, source), Parser(source, format, columns or {}, turns))


def _told(rows: Any, source: str) -> Iterable[tuple[Any, str]]:
    """Rows that were given in Python, or of one file, each with where it stands."""
    return ((raw, f"{source}, row {number}") for number, raw in enumerate(rows_of(rows, source), 1))


class Parser:
    """Makes prompts of rows, and finds out their format by the first one where it is "auto"."""

    def __init__(self, source: str, format: str, columns: Mapping[str, str], turns: str) -> None:
        if format != "auto" and format not in FORMATS:
            raise DataError(f"{source}: no format is called {format!r}. {did_you_mean(format, ['auto', *FORMATS])}")
        self.source, self.format, self.columns, self.turns = source, format, columns, turns
        self.untyped, self._found_out = False, format == "auto"

    def __call__(self, raw: Any, where: str) -> Prompt:
        if isinstance(raw, Prompt):
            return raw
        if not isinstance(raw, Mapping):
            raise DataError(f"{where}: expected an object, found {found(raw)}.\n{accepted()}")
        odd = [name for name in raw if not isinstance(name, str)]
        if odd:
            raise DataError(f"{where}: a column's name is a string, found {found(odd[0])}. Name the columns.")
        self.untyped = isinstance(raw, Cells)
        row = Row(raw, where, self.untyped).rename(self.columns)
        if self.format == "auto":
            self.format = recognise(row)
        elif self._found_out:
            check_fits(row, self.format)
        prompt = parse(row, self.format)
        return opened(prompt) if self.turns == "all" and self.format == "messages" else prompt


class _Echoes:
    """Counts text answers that begin with their whole prompt, which they would say twice."""

    def __init__(self) -> None:
        self.answers = self.echoes = 0

    def __call__(self, prompt: Prompt) -> None:
        asked = prompt.messages
        if asked:
            self.answers += len(prompt.completions)
            if isinstance(asked, str):
                self.echoes += sum(isinstance(text, str) and text.startswith(asked) for text in prompt.completions)

    def warn(self, source: str) -> None:
        """Say so where all do."""
        if self.echoes > 1 and self.echoes == self.answers:
            warnings.warn(
                f"{source}: each of the {self.echoes} answers begins with its whole prompt, and is trained on as it "
                "is, the prompt said twice: cut it off the answers, or leave the prompt out (format "
                "preference-implicit) unless they are meant to repeat it",
                stacklevel=4,
            )


def _listed(rows: Iterable[tuple[Any, str]], parser: Parser) -> list[Prompt]:
    """Rows, each with where it stands, as prompts in memory."""
    prompts, echoes = [], _Echoes()
    for raw, where in rows:
        prompts.append(parser(raw, where))
        echoes(prompts[-1])
    if not prompts:
        raise DataError(f"{parser.source} holds no rows. Give at least one.\n{accepted()}")
    echoes.warn(parser.source)
    return with_numbers(prompts) if parser.untyped else prompts


def _indexed(shards: Shards, data: Data) -> Sequence[Prompt]:
    """The rows as prompts that stay in their files."""
    settings = {"format": data.format, "columns": dict(data.columns), "turns": data.turns, "split": data.split}
    echoes = _Echoes()
    prompts = indexed(
        shards.sources,
        settings,
        lambda format: Parser(data.path, format, data.columns, data.turns),
        limit=data.limit,
        watch=echoes,
    )
    echoes.warn(data.path)
    return prompts


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
    """The split of a dictionary of datasets; rows that are none as they are, where no other split is asked for."""
    if not isinstance(rows, Mapping):
        check_split("the given rows", split)
        return rows
    if split not in rows:
        raise DataError(
            f"the data are a mapping without a split {split!r}. {did_you_mean(split, rows)} Say which with data.split; "
            "columns become rows by datasets.Dataset.from_dict."
        )
    return rows[split]


def train_and_heldout(data: Data) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """The prompts to train on and those to evaluate on, which share none.

    Where the held-out rows have a place of their own, training rows with one of their prompts are left out, with a
    warning.
    """
    if data.mix:
        return _mixture(data)
    prompts = read(data)
    if not (data.heldout_path or data.heldout_split):
        return split(prompts, data.heldout)
    place = replace(data, split=data.heldout_split or data.split)
    if data.heldout_path:
        alone = not data.heldout_split and Path(located(data.heldout_path)).expanduser().is_file()
        place = replace(place, path=data.heldout_path, rows=None, split="train" if alone else place.split)
    return _without(prompts, read(place), data.path or "the given rows", place.path)


def _mixture(data: Data) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """The sources mixed; of each a share is held out, unless held-out rows have a place of their own."""
    own = bool(data.heldout_path or data.heldout_split)
    train: list[Sequence[Prompt]] = []
    heldout: list[Sequence[Prompt]] = []
    for part in data.mix:
        settings = {f.name: getattr(part, f.name) for f in fields(part) if f.name != "weight"}
        share = 0.0 if own else data.heldout
        place = replace(data, mix=(), heldout_path="", heldout_split="", heldout=share, **settings)
        kept, shown = train_and_heldout(place)
        train.append(kept)
        heldout.append(read(replace(place, split=data.heldout_split)) if data.heldout_split else shown)
    elsewhere = replace(data, mix=(), path=data.heldout_path) if data.heldout_path else None
    shown = in_turn(data.mix, heldout) if elsewhere is None else read(elsewhere)
    parts = [_without(rows, shown, part.name, "another source")[0] for rows, part in zip(train, data.mix, strict=True)]
    return mixed(data.mix, parts), shown


def _without(
    prompts: Sequence[Prompt], heldout: Sequence[Prompt], source: str, place: str
) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """The prompts that are not among the held-out ones, and these."""
    train = chosen(prompts, ~np.isin(fact(prompts, "point"), fact(heldout, "point")))
    if not train:
        raise DataError(f"{source}: every prompt is also held out, in {place or source}. Give other held-out data.")
    if len(train) < len(prompts):
        shared = len(prompts) - len(train)
        warnings.warn(f"{source}: rows left out of training, for their prompts are held out: {shared}.", stacklevel=2)
    return train, heldout


def split(prompts: Sequence[Prompt], heldout: float) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """Hold out about this share of the prompts, one at least; rows with the same prompt stay together.

    Each prompt's text decides by its hash, whatever the order and the other rows: more data later never hold back
    what was trained on before. The one exception is the lowest hash, held out where no other is.
    """
    if not heldout:
        return prompts, []
    points = fact(prompts, "point")  # each prompt's own place, from 0 to 2⁶⁴
    keep = points > max(np.uint64(int(heldout * 2.0**64)), points.min())
    train = chosen(prompts, keep)
    if not train:
        raise DataError(
            f"too few different prompts ({len(np.unique(points))}) to hold out a share of {heldout:g} and train on the "
            "rest. Give more, or another heldout (0: none), or heldout_path."
        )
    return train, chosen(prompts, ~keep)
