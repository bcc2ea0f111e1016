"""A plugin may raise anything at import, KeyboardInterrupt too: whether it was the user who pressed Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def watched() -> Iterator[Callable[[BaseException], bool]]:
    """Inside, says of an error whether it is a real Ctrl-C, which nobody may keep from the user."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda error: False  # signals reach the main thread alone
        return
    pressed: list[int] = []
    former: Any = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if callable(former):
            former(number, frame)

    if not callable(former):  # ignored, or not Python's own: then none arrives
        yield lambda error: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda error: isinstance(error, KeyboardInterrupt) and bool(pressed)
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, former)
