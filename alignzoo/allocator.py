"""Memory that is freed is kept for the next tensor, instead of being given back and fetched again page by page."""

from __future__ import annotations

import ctypes
import os

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
    if os.environ.get(SWITCH) == "0" or not _is_glibc() or _has_gpu():
        return False
    libc = ctypes.CDLL(None)
    wanted = ((MMAP_THRESHOLD, 1 << 26), (TRIM_THRESHOLD, LARGEST), (TOP_PAD, 1 << 26))
    return all([libc.mallopt(name, value) == 1 for name, value in wanted])


def _is_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()) and bool(os.confstr("CS_GNU_LIBC_VERSION"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
