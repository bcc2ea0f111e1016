"""A comparison that is killed and started again yields, on one processor, the same to the byte as one left alone."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import SMALL, Compare

STEPS = ("schedule.steps=8", "schedule.save_every=2", "schedule.eval_every=3")
TIMED = {"timing.json", "seconds.jsonl", "log.txt"}
"""What clocks say, in files of their own; what a killed cell had said stays in its log."""


def progress(folder: Path) -> int:
    """Steps and cells that are finished."""
    steps = sum(path.read_bytes().count(b"\n") for path in folder.glob("cells/*/*/*/run/metrics.jsonl"))
    return steps + len(list(folder.glob("cells/*/*/*/cell.json")))


def kill_after(steps: int, seconds: float, folder: Path, work: Callable[[], object]) -> bool:
    """Do the work in a process of its own and kill that so many steps and seconds later. Whether it was in time."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    before = progress(folder)
    while process.is_alive() and progress(folder) < before + steps:
        time.sleep(0.005)
    process.join(seconds)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


@pytest.mark.slow
def test_killed_at_three_random_times_and_run_again(compare: Compare, tmp_path: Path) -> None:
    settings = {"seeds": 1, "overrides": (*SMALL, *STEPS), "jobs": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    compare("climb", out=whole, **settings)

    rng = random.Random(4)
    for _ in range(3):
        at = rng.randint(1, 4), rng.uniform(0, 0.05)
        assert kill_after(*at, killed, lambda: compare("climb", out=killed, **settings)), "it had come to its end"
        assert not (killed / "results.json").exists()
    again = compare("climb", out=killed, **settings)

    assert [cell.status for cell in again.cells] == ["ok"] * 4
    cells = {path.relative_to(whole) for path in (whole / "cells").rglob("*") if path.is_file()}
    same = sorted(path for path in cells if path.name not in TIMED)
    assert len(same) > 20
    for path in (Path("results.json"), *same):
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path
