"""Others' code is called: plain or async, within a time limit; and where it fails, for which of its rows."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class OutOfTime(Exception):
    """A call has not come to its end within its time limit."""


def result_of(call: Callable[[], Any], seconds: float = 0.0) -> Any:
    """What a function returns, awaited where it is async. OutOfTime is raised after so many `seconds`; 0 sets no limit.

    A limited call runs in a thread of its own, which nothing can end from outside: after OutOfTime it goes on until the
    program ends, and the program does not wait for it. Coroutines run in a thread, too, so that a notebook's running
    loop does not mind.
    """
    if seconds:
        return _in_a_thread(lambda: _awaited(call()), seconds)
    found = call()
    return _in_a_thread(lambda: _awaited(found), None) if inspect.isawaitable(found) else found


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Inside, Python code is interrupted by OutOfTime once it has run so long; a single operation in C is not. It costs
    a microsecond, so that it can stand around every one of many calls."""
    thread, due = threading.get_ident(), time.monotonic() + seconds
    with _Watch.lock:
        _Watch.due[thread] = due
        if not _Watch.running:
            _Watch.running = True
            threading.Thread(target=_watch, daemon=True).start()
    try:
        yield
    finally:
        with _Watch.lock:
            _Watch.due.pop(thread, None)


class _Watch:
    """Who is to be interrupted, and when: by the numbers of threads."""

    lock = threading.Lock()
    due: dict[int, float] = {}  # noqa: RUF012 - one for all
    running = False


def _watch() -> None:
    """Interrupt whoever is late; end when nobody is watched."""
    while True:
        time.sleep(0.5)
        with _Watch.lock:
            late = [thread for thread, due in _Watch.due.items() if time.monotonic() > due]
            for thread in late:
                del _Watch.due[thread]
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))
            if not _Watch.due:
                _Watch.running = False
                return


def _watch_nobody() -> None:
    _Watch.lock, _Watch.running = threading.Lock(), False
    _Watch.due.clear()


os.register_at_fork(after_in_child=_watch_nobody)


def failing(call: Callable[[Sequence[int]], object], n: int) -> list[int]:
    """The fewest of the rows 0 to n - 1 for which `call` raises, found by calling it on halves; all n of them where it
    raises for neither half."""
    rows = list(range(n))
    while len(rows) > 1:
        half = len(rows) // 2
        worse = next((part for part in (rows[:half], rows[half:]) if _raises(call, part)), None)
        if worse is None:
            break
        rows = worse
    return rows


def _raises(call: Callable[[Sequence[int]], object], rows: Sequence[int]) -> bool:
    try:
        call(rows)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a user's function may raise; that it does is what is asked
        return True
    return False


def _in_a_thread(work: Callable[[], Any], seconds: float | None) -> Any:
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, in the thread that waits for it
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise OutOfTime
    return results[0]


def _awaited(value: Any) -> Any:
    async def end() -> Any:
        return await value

    return asyncio.run(end()) if inspect.isawaitable(value) else value
