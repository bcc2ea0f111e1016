"""Several data in one: each source comes by as often in a pass as its weight says, whatever its size.

A pass is as long as it takes for every row of every source to come by at least once in the shares that the weights
give; the others come by several times. Which rows of a source come by once more than its other rows is decided by the
rows' own hashes, so that the same files and weights are the same mixture in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, overload

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from alignzoo.data.indexed import fact
from alignzoo.errors import DataError
from alignzoo.types import Prompt

LONGEST = 2**31 - 1
"""Rows of a pass: their numbers are kept in 32 bits."""


@dataclass(frozen=True)
class Part:
    """One source of a mixture: a table in the list `data`, or `data.mix`."""

    path: str = ""
    """Where its rows are, as in `data.path`."""
    weight: Annotated[float, Gt(0)] = 1.0
    """Its share of the rows that are trained on, beside the other sources' weights."""
    format: str = "auto"
    """What its rows are, as in `data.format`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name of a column -> the file's, where they differ."""
    split: str = "train"
    """Which split of a hub dataset or of a saved dictionary of datasets."""
    limit: Annotated[int, Ge(0)] = 0
    """Read only the first so many rows; 0: all."""
    rows: Any = None
    """Rows in the place of `path`, from Python."""

    def __post_init__(self) -> None:
        if not self.path and self.rows is None:
            raise DataError("path is missing: say where the data of each source of the mixture are")
        if not math.isfinite(self.weight):
            raise DataError(f"weight is {self.weight}: give a finite number above 0")

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or "the given rows"


@dataclass(frozen=True, eq=False)
class Mixed(Sequence[Prompt]):
    """The rows of several sources, one after the other, some of them more than once."""

    names: tuple[str, ...]
    sources: tuple[Sequence[Prompt], ...]
    which: NDArray[np.int32]
    """The source of each row."""
    place: NDArray[np.int32]
    """Its place there."""

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, at: int) -> Prompt: ...

    @overload
    def __getitem__(self, at: slice) -> Mixed: ...

    def __getitem__(self, at: int | slice) -> Prompt | Mixed:
        if isinstance(at, slice):
            return self.at(np.arange(*at.indices(len(self))))
        return self.sources[int(self.which[at])][int(self.place[at])]

    def at(self, places: NDArray[Any]) -> Mixed:
        """The prompts at these places among those of this sequence."""
        return replace(self, which=self.which[places], place=self.place[places])

    def fact(self, name: str) -> NDArray[Any]:
        known = [fact(each, name) for each in self.sources]
        found = np.empty(len(self), dtype=known[0].dtype)
        for number, column in enumerate(known):
            mine = self.which == number
            found[mine] = column[self.place[mine]]
        return found

    def changed(self, change: Callable[[Sequence[Prompt]], Sequence[Prompt]]) -> Mixed:
        """Each source changed, row by row."""
        return replace(self, sources=tuple(change(each) for each in self.sources))

    def __str__(self) -> str:
        """The sources with their shares, and how often their rows come by in a pass."""
        told = []
        for number, name in enumerate(self.names):
            rows, times = len(np.unique(self.place[self.which == number])), int((self.which == number).sum())
            often = f", each {times / rows:.3g} times a pass" if times > rows else ""
            told.append(f"{times / max(1, len(self)):.3g} {name} ({rows:,} rows{often})")
        return "mixture: " + "; ".join(told)


def mixed(parts: Sequence[Part], sources: Sequence[Sequence[Prompt]]) -> Mixed:
    """The sources in the shares of their weights, every row once at least."""
    total = sum(part.weight for part in parts)
    shares = [part.weight / total for part in parts]
    length = max(len(rows) / share for rows, share in zip(sources, shares, strict=True))
    counts = [max(len(rows), round(share * length)) for rows, share in zip(sources, shares, strict=True)]
    if sum(counts) > LONGEST:
        smallest = min(zip(shares, parts, strict=True), key=lambda pair: pair[0])[1]
        raise DataError(
            f"a pass over the mixture would have {sum(counts):,} rows, so that every row of {smallest.name} comes by: "
            "give it a larger weight, or fewer rows by its `limit`"
        )
    places = [_places(rows, count) for rows, count in zip(sources, counts, strict=True)]
    which = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    return Mixed(tuple(part.name for part in parts), tuple(sources), which, np.concatenate(places))


def _places(rows: Sequence[Prompt], count: int) -> NDArray[np.int32]:
    """Every row ⌊count/n⌋ times, and those with the lowest hashes once more."""
    times, more = divmod(count, len(rows))
    everything = np.tile(np.arange(len(rows), dtype=np.int32), times)
    further = np.argsort(fact(rows, "point"), kind="stable")[:more]
    return np.concatenate([everything, np.sort(further).astype(np.int32)])


def in_turn(parts: Sequence[Part], sources: Sequence[Sequence[Prompt]]) -> Sequence[Prompt]:
    """Every row of the sources once, evenly spread: the first so many are of all of them."""
    filled = [(part, rows) for part, rows in zip(parts, sources, strict=True) if len(rows)]
    if not filled:
        return []
    ranks = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for _, rows in filled])
    which = np.repeat(np.arange(len(filled), dtype=np.int32), [len(rows) for _, rows in filled])
    place = np.concatenate([np.arange(len(rows), dtype=np.int32) for _, rows in filled])
    order = np.argsort(ranks, kind="stable")
    names = tuple(part.name for part, _ in filled)
    return Mixed(names, tuple(rows for _, rows in filled), which[order], place[order])
