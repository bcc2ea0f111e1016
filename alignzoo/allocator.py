"""Memory that is freed is kept for the next tensor, instead of being given back and fetched again page by page; and
given back where so much of it lies between tensors that stay that no other fits in there."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

SWITCH = "ALIGNZOO_MALLOC"
"""Set to 0 in the environment, this variable leaves the allocator as it is."""

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt, as in malloc.h."""

LARGEST = (1 << 31) - 1
"""The largest C int: with it the top of the heap is never given back."""


def keep_freed_memory() -> bool:
    """Have glibc take tensors of up to 64 MB from the heap and keep what is freed; whether it does now. Larger ones,
    the gradient of a real vocabulary's table say, come and go by themselves: in the heap they would leave holes that
    small tensors break up, so that it grows by one of them again and again.

    By itself it maps every block above 32 MB anew, and the kernel then clears each of its pages at the first touch:
    a fresh tensor of 32 MB costs 20 ms instead of 3 (measured on one core). Only where it is glibc that allocates: on
    other systems, where the environment says ALIGNZOO_MALLOC=0, and where a GPU holds the tensors, nothing is changed.
    """
    return _may_change() and _set({MMAP_THRESHOLD: 1 << 26, TRIM_THRESHOLD: LARGEST, TOP_PAD: 1 << 26})


def return_freed_memory() -> bool:
    """Have glibc map each tensor from 2 MB on by itself, so that it goes back to the system when it is freed; whether
    it does now, which is decided as in `keep_freed_memory`.

    Weights that are spread over processes come and go layer by layer, between gradients and sums that stay. In the heap
    two steps of SmolLM2 by DPO on two processes left 1.3 GB of holes, of 3.7 in all; so there are none, for a tenth
    more of the processor's time.
    """
    return _may_change() and _set({MMAP_THRESHOLD: 1 << 21, TRIM_THRESHOLD: 1 << 17, TOP_PAD: 1 << 17})


def _may_change() -> bool:
    return os.environ.get(SWITCH) != "0" and _is_glibc() and not _has_gpu()


def _set(wanted: Mapping[int, int]) -> bool:
    libc = ctypes.CDLL(None)
    return all([libc.mallopt(name, value) == 1 for name, value in wanted.items()])


HOLES = 1 << 26
"""Bytes that may lie freed between others before they are given back."""


STATM = Path("/proc/self/statm")


class _Counted(ctypes.Structure):
    """What glibc's mallinfo2 counts, as in malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "k")
    ]


class Heap:
    """The heap of this process, and how much memory lies in it that nothing uses.

    To align a tensor glibc asks for a few bytes more than it has, so that none ever takes the place of a freed one of
    its own size that lies between two others. Where some tensors stay while others come and go, the heap grows past
    them: in a pass of SmolLM2 with an adapter, of whose layers the inputs alone are kept, by twice what is in use.
    """

    def __init__(self, libc: ctypes.CDLL) -> None:
        libc.mallinfo2.restype = _Counted
        self._count: Callable[[], _Counted] = libc.mallinfo2
        self._trim: Callable[[int], int] = libc.malloc_trim
        self._others = 0
        """What is not in use when all that is free has just been given back: what is not the heap's, Python's say."""

    def give_back(self, most: int = HOLES) -> bool:
        """Give what is free back to the system where that is more than `most` bytes; whether it was. Nothing else
        changes: who takes it next waits for its pages again."""
        if self._unused() - self._others <= most:
            return False
        self._trim(0)
        self._others = self._unused()
        return True

    def _unused(self) -> int:
        """Bytes of memory, but for files', that nothing of the heap's is in."""
        _, resident, shared, *_ = map(int, STATM.read_text(encoding="ascii").split())
        counted = self._count()
        return int((resident - shared) * os.sysconf("SC_PAGE_SIZE") - counted.uordblks - counted.hblkhd)


@functools.cache
def heap() -> Heap | None:
    """The heap, where glibc says what is free in it (2.33 or later), and holds the tensors."""
    if not _may_change() or not STATM.exists():
        return None
    libc = ctypes.CDLL(None)
    return Heap(libc) if hasattr(libc, "mallinfo2") else None


def give_back(most: int = HOLES) -> bool:
    """As `Heap.give_back`; on other systems, with ALIGNZOO_MALLOC=0, and where a GPU holds the tensors, nothing."""
    found = heap()
    return found is not None and found.give_back(most)


def _is_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()) and bool(os.confstr("CS_GNU_LIBC_VERSION"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
