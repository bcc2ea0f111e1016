"""Freed memory is kept: counted in page faults, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from alignzoo import allocator

COUNTED = """
import resource
import torch
from alignzoo import allocator

print(allocator.keep_freed_memory())
for _ in range(30):  # 30 times 48 MB: 12288 pages each
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[str, int]:
    """What the switch answers, and the page faults of the thirtieth large tensor."""
    said = subprocess.run(
        [sys.executable, "-c", COUNTED], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    done, count = said.stdout.split()
    return done, int(count)


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="glibc, and tensors on the CPU")
def test_large_tensors_come_without_page_faults() -> None:
    done, kept = faults()
    left, mapped = faults(ALIGNZOO_MALLOC="0")
    assert (done, left) == ("True", "False")
    assert mapped > 50 * max(kept, 1)


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="glibc, and tensors on the CPU")
def test_memory_that_is_freed_can_be_given_back_at_once() -> None:
    """80 freed tensors of 4 MB between 80 that stay leave nothing; kept, they leave 320 MB of holes."""
    script = """
import os, sys, torch
from alignzoo import allocator

def resident():
    return int(allocator.STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

allocator.keep_freed_memory()
done = sys.argv[1] == "0" or allocator.return_freed_memory()
start = resident()
kept = [torch.ones(1 << 20) for _ in range(160)][::2]
print(done, resident() - start)
"""
    for returned, most in (("1", 360e6), ("0", 700e6)):
        said = subprocess.run([sys.executable, "-c", script, returned], capture_output=True, text=True, check=True)
        done, more = said.stdout.split()
        assert done == "True"
        assert most - 50e6 < int(more) < most, returned


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_is_glibc", lambda: False)
    assert not allocator.keep_freed_memory()


def test_with_a_gpu_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(allocator.ctypes, "CDLL", pytest.fail)
    assert not allocator.keep_freed_memory()


@pytest.mark.skipif(allocator.heap() is None, reason="a heap of glibc's that tells what is free in it")
def test_holes_between_tensors_are_given_back_and_no_number_changes() -> None:
    """80 freed tensors of 2 MB between 80 that stay: 160 MB in holes."""

    def resident() -> int:
        return int(allocator.STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    assert allocator.keep_freed_memory()
    heap = allocator.heap()
    assert heap is not None
    heap.give_back()
    heap.give_back()
    tensors = [torch.full((1 << 19,), float(i)) for i in range(160)]
    assert not heap.give_back()  # all is in use
    del tensors[::2]
    before = resident()
    assert heap.give_back() and before - resident() > 140 * 10**6
    assert not heap.give_back()  # the holes are known, and empty
    assert all((tensor == 2 * i + 1).all() for i, tensor in enumerate(tensors))
