"""As if it were another process: with another hash of texts, and without what was remembered on the way."""

from __future__ import annotations

import builtins
import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def another_hash() -> Iterator[None]:
    """Inside, `hash` of a text is another one, as it is in each process."""
    real = builtins.hash

    def salted(value: Any, /) -> int:
        return real(value) ^ 0x5DEECE66D if isinstance(value, str | bytes) else real(value)

    builtins.hash = salted
    try:
        yield
    finally:
        builtins.hash = real


@contextmanager
def forgotten(part: object) -> Iterator[None]:
    """What the modules and classes of a part remember inside, in tables or in the caches of functions, they have
    forgotten afterwards."""
    kept = [(table, _copied(table)) for table in _tables(part)]
    for function in _cached(part):
        function.cache_clear()
    try:
        yield
    finally:
        for table, before in kept:
            if table != before:
                table.clear()
                table.extend(before) if isinstance(table, list) else table.update(before)
        for function in _cached(part):
            function.cache_clear()


def _copied(table: Any) -> Any:
    with suppress(Exception):  # a table of a third party may hold what cannot be copied
        return copy.deepcopy(table)
    return copy.copy(table)


def _owners(part: object) -> Iterator[Any]:
    """The modules and classes that a part is made of, but for the core's, which remember nothing."""
    for cls in type(part).__mro__:
        module = sys.modules.get(cls.__module__)
        if module is not None and cls.__module__.partition(".")[0] not in ("builtins", "typing", "abc", "alignzoo"):
            yield from (module, cls)


def _tables(part: object) -> list[Any]:
    found = {
        id(value): value
        for owner in _owners(part)
        for name, value in list(vars(owner).items())
        if isinstance(value, dict | list | set) and not name.startswith("__")
    }
    return list(found.values())


def _cached(part: object) -> Iterator[Any]:
    for owner in _owners(part):
        for value in list(vars(owner).values()):
            if callable(getattr(value, "cache_clear", None)) and callable(getattr(value, "cache_info", None)):
                yield value
