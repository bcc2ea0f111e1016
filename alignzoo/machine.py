"""The machine that a plan is made for, where it is another than this one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from alignzoo.errors import RunError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Machine:
    """What is assumed of a device; "" and 0: as it is here."""

    device: str = ""
    """cpu or cuda."""
    memory: int = 0
    """Its bytes, of which nothing is in use."""


HERE = Machine()
"""This one."""

_assumed: ContextVar[Machine | None] = ContextVar("assumed", default=None)


def assumed() -> Machine:
    """The machine that the present plan is made for."""
    return _assumed.get() or HERE


@contextmanager
def assuming(machine: Machine) -> Iterator[None]:
    """Inside, plans are made for that machine, which need not be there."""
    token = _assumed.set(machine)
    try:
        yield
    finally:
        _assumed.reset(token)


def bytes_of(text: str) -> int:
    """80GB, 24 GiB, 16000000000. Raises RunError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or not float(found[1]):
        raise RunError(f"--memory: found {text!r}, expected a size as 80GB, 24GiB or a number of bytes")
    return int(float(found[1]) * unit)
