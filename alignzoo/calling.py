"""Others' code is called: plain or async, within a time limit; and where it fails, for which of its rows."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Self


class OutOfTime(Exception):
    """A call has not come to its end within its time limit."""


class Kept:
    """What others' code has raised inside a `kept` block; `error` is None where it raised nothing."""

    error: BaseException | None = None

    def __init__(self, kind: type[BaseException], but: tuple[type[BaseException], ...]) -> None:
        self._kind, self._but = kind, but

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, self._kind) and not isinstance(error, self._but):
            self.error = error
        return self.error is not None


def kept(kind: type[BaseException] = Exception, *, but: tuple[type[BaseException], ...] = ()) -> Kept:
    """A boundary to others' code, for the one who goes on whatever it raises: an error of this kind, except those in
    `but`, becomes a value. It is read after the block, and told or raised there.

        with kept() as found:
            answers = plugin.evaluate()
        if found.error is not None:
            tell(found.error)
    """
    return Kept(kind, but)


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
    with kept(BaseException, but=(KeyboardInterrupt,)) as found:
        call(rows)
    return found.error is not None


def _in_a_thread(work: Callable[[], Any], seconds: float | None) -> Any:
    ended: Future[Any] = Future()

    def run() -> None:
        with kept(BaseException) as failed:
            ended.set_result(work())
        if failed.error is not None:
            ended.set_exception(failed.error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return ended.result(seconds)
    except TimeoutError:
        if ended.done():
            return ended.result()  # the TimeoutError is the work's own, or it has just come to its end
        raise OutOfTime from None


def _awaited(value: Any) -> Any:
    async def end() -> Any:
        return await value

    return asyncio.run(end()) if inspect.isawaitable(value) else value
