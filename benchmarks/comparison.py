"""One comparison with a peer: a method on a model, with completions of varied length or all at the cap."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import floor
import peers
import workload

from alignzoo import probe

STEPS = 5
"""Timed steps of each system, after one that warms up."""
ENDS = {"geometric": 1 / 64, "cap": 0.0}
"""How likely a rollout ends at each token."""

Row = dict[str, Any]
Repeat = Callable[[Callable[[], object]], None]


@dataclass(frozen=True)
class Case:
    """What is compared."""

    method: str
    size: str
    lengths: str = "geometric"

    @property
    def key(self) -> str:
        return f"{self.method}-{self.size}-{self.lengths}"


METHODS = ("sft", "reward-model", "dpo", "grpo", "rloo", "ppo")
CASES = [Case(method, size) for size in "SM" for method in METHODS]
CASES += [Case(method, "V") for method in ("sft", "dpo", "grpo")]
CASES += [Case("grpo", size, "cap") for size in "SM"]


def until(steps: int, deadline: float = float("inf"), least: int = 3) -> Repeat:
    """So many turns, or fewer if time is up, but `least`."""

    def repeat(turn: Callable[[], object]) -> None:
        for taken in range(steps):
            if taken >= least and time.monotonic() > deadline:
                return
            turn()

    return repeat


def measure(case: Case, repeat: Repeat, *, full: bool, core: int | None = None) -> Row:
    """Steps in turn, as often as `repeat` calls for, with the floor that the machine allows in the same moments."""
    sizes = workload.SIZES[case.size]
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        workload.make(Path(folder), sizes, ends=ENDS[case.lengths])
        with peers.running(case.method, Path(folder), full=full, core=core) as sides:

            def turn() -> None:
                rates.append(probe.matmul_rate(1024, sizes.hidden, sizes.intermediate))
                for side in peers.in_contention(sides):
                    side.step()

            repeat(turn)
            for side in sides:
                side.end()
        length = statistics.mean(step["length"] for step in sides[0].steps[1:])
        operations = floor.operations(case.method, sizes, Path(folder), length)
    figures = {side.system.name: side.figures() for side in sides}
    return {
        "method": case.method,
        "size": case.size,
        "lengths": case.lengths,
        "length": length,
        "systems": figures,
        "gflops_per_second": max(rates) / 1e9,
        "gflops": {phase: count / 1e9 for phase, count in operations.items()},
        "floor_share": sum(operations.values()) / max(rates) / figures["alignzoo"]["cpu_seconds"],
    }
