"""How fast this machine is: matrix products and memory, each measured in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

REPEATS = 12
"""The best of so many counts: whatever else the machine does can only slow one down."""

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
    seconds = _best(lambda: [torch.mm(left, right, out=out) for _ in range(times)], device)
    return times * 2 * rows * inner * columns / seconds


def read_rate(*, device: torch.device | str = "cpu") -> float:
    """Bytes per second of one pass over memory."""
    block = torch.ones(BLOCK // 4, device=device)
    return BLOCK / _best(block.sum, device)


def overhead(*, device: torch.device | str = "cpu") -> float:
    """Seconds of the smallest operation of torch."""
    one = torch.ones(1, device=device)
    return _best(lambda: [one.add(1) for _ in range(200)], device) / 200


def _best(work: Callable[[], object], device: torch.device | str) -> float:
    """Seconds of the fastest of several runs."""
    best = float("inf")
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
