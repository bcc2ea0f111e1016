"""Faults that are generated from a seed: malformed inputs, damaged runs, hostile plugins and endpoints, kills.

A family is a module of its own with `case(rng, folder)`, which does one case in an empty folder and raises Short where
alignzoo breaks the rule: what can be used is used as it stands, and anything else is refused by an AlignzooError that a
person can act on; nothing is lost, and nothing of the process is changed. Formats of data, file endings, recipes, parts
and kinds of plugins are read from alignzoo itself, so a new one is tried without being named here.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import FrameType

from alignzoo.errors import AlignzooError
from alignzoo.printable import printable

Work = Callable[[random.Random, Path], None]

SECONDS = 60
"""No case takes longer, on a busy machine either, unless it hangs."""


class Short(Exception):
    """A case in which alignzoo falls short; the message says how."""


@dataclass(frozen=True)
class Found:
    """What became of a case."""

    family: str
    number: int
    fault: str
    """How it falls short; empty where it does not."""


def check_told(error: AlignzooError, *names: str) -> None:
    """Raise Short where an error tells a person too little or too much: of these names one must be in it."""
    told = str(error)
    if not told.strip() or len(told) > 20_000:
        raise Short(f"{type(error).__name__} with a message of {len(told)} characters")
    if names and not any(name in told for name in names):
        raise Short(f"{type(error).__name__} names none of {names}: {told[:300]}")
    printable(told).encode()  # a terminal can be sent it


def run(family: str, work: Work, number: int, seed: int) -> Found:
    """One case. Whatever it raises but Short is a fault, too: an error that was not put into words."""
    before = _shared()
    fault = ""
    with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as folder:
        try:
            with _quietly(), _within(SECONDS):
                work(random.Random(f"{seed}/{family}/{number}"), Path(folder).resolve())
        except Short as short:
            fault = str(short)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            at = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
            fault = f"{type(error).__name__}: {str(error)[:300]} ({at})"
        now = _shared()
        own = {name: value for name, value in now[1].items() if name in before[1] or name.startswith("FAULT")}
        if (now[0], own, now[2]) != before:  # libraries set variables of their own when they are imported
            fault = fault or "the working directory, the environment or a random state is another than before"
    return Found(family, number, fault)


def _shared() -> tuple[str, dict[str, str], object]:
    return os.getcwd(), dict(os.environ), random.getstate()


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise Short(f"no end within {seconds} s")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def families() -> Mapping[str, tuple[Work, int]]:
    """Each family's case, and its share of the cases."""
    from faults.generated import data, endpoints, folders, kills, plugins, recipes

    return {
        "data": (data.case, 14),
        "recipes": (recipes.case, 5),
        "settings": (recipes.setting, 5),
        "plugins": (plugins.case, 3),
        "endpoints": (endpoints.case, 2),
        "folders": (folders.case, 2),
        "kills": (kills.case, 1),
    }


def dealt(cases: int) -> dict[str, int]:
    """How many of so many cases fall to each family."""
    shares = {name: share for name, (_, share) in families().items()}
    return {name: round(cases * share / sum(shares.values())) for name, share in shares.items()}


def campaign(family: str, cases: int, seed: int) -> Iterator[Found]:
    """So many cases of a family."""
    work, _ = families()[family]
    for number in range(cases):
        yield run(family, work, number, seed)


def timed(family: str, cases: int, seed: int) -> tuple[list[Found], float]:
    """The cases of a family, and the processor's seconds that they took."""
    start = time.process_time()
    return list(campaign(family, cases, seed)), time.process_time() - start
