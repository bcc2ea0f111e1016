"""Prompts that stay in their file: each is read when it is asked for, and what is known of all of them is a few bytes.

What a stage asks of all its prompts, which are held out and which can be trained on, it asks `fact`: of a list the
prompts answer, of an `Indexed` the index that was made when the file was first read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alignzoo.data.turns import are_answers
from alignzoo.types import Prompt

Places = NDArray[np.int32] | NDArray[np.int64]


def point(prompt: Prompt) -> int:
    """The prompt's own place between 0 and 2⁶⁴, by the hash of what is asked: equal prompts have equal ones.

    Where nothing is asked, the completions are what makes two rows the same.
    """
    identity = json.dumps(prompt.messages or prompt.completions, default=dict, sort_keys=True)
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


FACTS: Mapping[str, tuple[str, Callable[[Prompt], int]]] = {
    "point": ("u8", point),
    "completions": ("u2", lambda prompt: min(len(prompt.completions), 65535)),
    "answers": ("?", are_answers),
    "bad": ("?", lambda prompt: prompt.labels == (0.0,)),
}
"""What is known of every prompt without reading it: its type in numpy's notation, and how it is found out. `answers`:
every completion begins and ends with the assistant's turn; `bad`: its only completion is labelled 0."""


class Source(Protocol):
    """A file whose rows can be read one by one."""

    @property
    def path(self) -> str:
        """What errors call it."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """Where it lies: a change of them is a change of its rows."""
        ...

    def scan(self) -> Iterator[tuple[int, Any]]:
        """Every row, with the key by which it is read again."""
        ...

    def get(self, key: int) -> Any:
        """The row of a key."""
        ...


@dataclass(frozen=True, eq=False)
class Index:
    """Where the rows of some sources are, and what is known of them, in columns of numbers that stay on the disk."""

    starts: tuple[int, ...]
    """How many rows come before each source's first."""
    columns: Mapping[str, NDArray[Any]]
    """The facts, and `key`, by which a source reads a row again."""
    names: frozenset[str]
    """All columns that some row has beside those that its format reads."""


@dataclass(frozen=True, eq=False)
class Indexed(Sequence[Prompt]):
    """A sequence of prompts of which none is kept: `prompts[i]` reads its row."""

    sources: Sequence[Source]
    parse: Callable[[Any, str], Prompt]
    """Makes a prompt of a row, and is told where it stands."""
    known: Index
    places: Places | None = None
    """Which rows, in their order; None: all."""
    changes: tuple[Callable[[Prompt], Prompt], ...] = ()
    """What becomes of each prompt after it is read, one after the other; it changes no fact."""

    def __len__(self) -> int:
        return len(self.known.columns["key"] if self.places is None else self.places)

    @overload
    def __getitem__(self, at: int) -> Prompt: ...

    @overload
    def __getitem__(self, at: slice) -> Indexed: ...

    def __getitem__(self, at: int | slice) -> Prompt | Indexed:
        if isinstance(at, slice):
            return self.at(np.arange(*at.indices(len(self)), dtype=np.int64))
        if not -len(self) <= at < len(self):
            raise IndexError(f"no prompt {at} of {len(self)}")
        at %= len(self)
        row = at if self.places is None else int(self.places[at])
        number = int(np.searchsorted(self.known.starts, row, side="right")) - 1
        source = self.sources[number]
        raw = source.get(int(self.known.columns["key"][row]))
        prompt = self.parse(raw, f"{source.path}, row {row - self.known.starts[number] + 1}")
        for change in self.changes:
            prompt = change(prompt)
        return prompt

    def at(self, places: Places) -> Indexed:
        """The prompts at these places among those of this sequence."""
        return replace(self, places=places if self.places is None else self.places[places])

    def fact(self, name: str) -> NDArray[Any]:
        column = self.known.columns[name]
        return column if self.places is None else column[self.places]


@runtime_checkable
class Several(Protocol):
    """Several sources in one sequence."""

    @property
    def sources(self) -> Sequence[Sequence[Prompt]]: ...

    def changed(self, change: Callable[[Sequence[Prompt]], Sequence[Prompt]]) -> Sequence[Prompt]: ...


@runtime_checkable
class Known(Protocol):
    """A sequence of prompts that knows of all of them what `fact` asks: an `Indexed`, or several sources mixed."""

    def at(self, places: Places) -> Sequence[Prompt]: ...

    def fact(self, name: str) -> NDArray[Any]: ...


def fact(prompts: Sequence[Prompt], name: str) -> NDArray[Any]:
    """A fact about each of the prompts; see FACTS."""
    if isinstance(prompts, Known):
        return prompts.fact(name)
    kind, found = FACTS[name]
    return np.array([found(prompt) for prompt in prompts], dtype=kind)


def chosen(prompts: Sequence[Prompt], keep: NDArray[np.bool_]) -> Sequence[Prompt]:
    """The prompts for which `keep` is True."""
    if isinstance(prompts, Known):
        places = np.flatnonzero(keep)
        return prompts.at(places.astype(np.int32) if len(keep) < 2**31 else places)
    return [prompt for prompt, kept in zip(prompts, keep, strict=True) if kept]


def changed(prompts: Sequence[Prompt], change: Callable[[Prompt], Prompt]) -> Sequence[Prompt]:
    """Each prompt changed in a way that leaves its facts as they are."""
    if isinstance(prompts, Indexed):
        return replace(prompts, changes=(*prompts.changes, change))
    if isinstance(prompts, Several):
        return prompts.changed(lambda source: changed(source, change))
    return [change(prompt) for prompt in prompts]


def stays_on_disk(prompts: Sequence[Prompt]) -> bool:
    """Whether rows are read from their files when they are asked for."""
    if isinstance(prompts, Several):
        return any(isinstance(source, Indexed) for source in prompts.sources)
    return isinstance(prompts, Indexed)


def has_column(prompts: Sequence[Prompt], name: str) -> bool:
    """Whether some row has this column in its info."""
    if isinstance(prompts, Indexed):
        return name in prompts.known.names
    if isinstance(prompts, Several):
        return any(has_column(source, name) for source in prompts.sources)
    return any(name in prompt.info for prompt in prompts)
