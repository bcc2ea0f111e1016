"""Whole steps beside TRL's: same weights, texts, lengths and precision, results compared before the clock starts."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import floor
import peers
import pytest
import workload

from alignzoo import probe
from alignzoo.registry import Registry

ONLINE = ("grpo", "rloo", "ppo")
STEPS = 5
"""Timed steps of each system, after one that warms up."""
METHODS = ("sft", "reward-model", "dpo", "grpo", "rloo", "ppo")
CASES = [(method, size, "geometric") for size in "SM" for method in METHODS]
CASES += [(method, "V", "geometric") for method in ("sft", "dpo", "grpo")]
CASES += [("grpo", size, "cap") for size in "SM"]
ENDS = {"geometric": 1 / 64, "cap": 0.0}


@contextmanager
def running(method: str, folder: Path, *, full: bool) -> Iterator[list[peers.Side]]:
    """Every system of a comparison, started and checked against one another."""
    chosen = peers.systems(method, full=full)
    if method in ONLINE:
        peers.check_logprobs(folder, folder, chosen[1:])
    sides: list[peers.Side] = []
    try:
        peers.start(sides, folder, method, chosen)
        for side in sides:
            side.step()
        if method not in ONLINE:
            peers.check_first(sides)
        yield sides
    finally:
        for side in sides:
            side.close()


def check_there(method: str) -> None:
    if not Registry().has("optimizer", method):
        pytest.skip(f"there is no plugin {method!r} yet")
    python = os.environ.get(peers.OLD, "")
    if method == "ppo" and not python:
        pytest.skip(f"TRL's PPO ended with 1.12: set {peers.OLD} to the Python of an environment that has it (README)")
    if method == "ppo":
        subprocess.run([python, "-c", "import trl.experimental.ppo"], check=True, capture_output=True)


@pytest.mark.parametrize(("method", "size", "lengths"), CASES)
def test_step(method: str, size: str, lengths: str, benchmark: Any, record: Any, full: bool, tmp_path: Path) -> None:
    check_there(method)
    workload.make(tmp_path, size, ends=ENDS[lengths])
    sizes = workload.SIZES[size]
    rates: list[float] = []
    with running(method, tmp_path, full=full) as sides:
        ours, *others = sides

        def turn() -> None:
            rates.append(probe.matmul_rate(1024, sizes.hidden, sizes.intermediate))
            for side in others:
                side.step()

        benchmark.pedantic(ours.step, setup=turn, rounds=STEPS, iterations=1)
        for side in sides:
            side.end()
        length = statistics.mean(step["length"] for step in ours.steps[1:])
        operations = floor.operations(method, size, tmp_path, length)
        figures = {side.system.name: side.figures() for side in sides}
    seconds = sum(operations.values()) / max(rates)
    row = {
        "method": method,
        "size": size,
        "lengths": lengths,
        "length": length,
        "systems": figures,
        "gflops_per_second": max(rates) / 1e9,
        "gflops": {phase: count / 1e9 for phase, count in operations.items()},
        "floor_share": seconds / figures["alignzoo"]["cpu_seconds"],
    }
    record.add("peers", f"{method}-{size}-{lengths}", row)
    benchmark.extra_info.update(row)
