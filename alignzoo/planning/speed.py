"""How fast this machine is: matrix products and memory, each measured in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

REPEATS = 12
"""The best of so many counts: whatever else the machine does can only slow one down."""


ENOUGH = 4.0
"""Seconds after which nothing is repeated."""


class Clock:
    """Seconds that work takes. On a CPU with one thread they are this process's own, which other processes do not
    touch; else those on the wall."""

    def __init__(self, device: torch.device | str) -> None:
        kind = torch.device(device).type
        self.cuda = kind == "cuda"
        self.now = time.process_time if kind == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def best(self, work: Callable[[], object], repeats: int) -> float:
        """The seconds of the fastest of several runs, after one that warms up; of fewer, or of that one, where they
        take longer than ENOUGH on the wall."""
        begun, best = time.perf_counter(), float("inf")
        for turn in range(repeats + 1):
            start = self._moment()
            work()
            late = time.perf_counter() - begun > ENOUGH
            if turn or late:
                best = min(best, self._moment() - start)
            if late:
                break
        return best

    def _moment(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return self.now()


BLOCK = 1 << 26
"""Bytes that the memory probe reads, beyond any cache."""


def matmul_rate(
    rows: int, inner: int, columns: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> float:
    """Operations per second of a product (rows, inner) x (inner, columns)."""
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(columns, inner, device=device, dtype=dtype).T
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    times = max(1, int(2e8 / (2 * rows * inner * columns)))
    seconds = Clock(device).best(lambda: [torch.mm(left, right, out=out) for _ in range(times)], REPEATS)
    return times * 2 * rows * inner * columns / seconds


def read_rate(*, device: torch.device | str = "cpu") -> float:
    """Bytes per second of one pass over memory."""
    block = torch.ones(BLOCK // 4, device=device)
    return BLOCK / Clock(device).best(block.sum, REPEATS)
