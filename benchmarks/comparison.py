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
    """Steps in turn, as often as `repeat` calls for, with the machine's pace just before and after each of ours."""
    sizes = workload.SIZES[case.size]
    paces: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        workload.make(Path(folder), sizes, ends=ENDS[case.lengths])
        with peers.running(case.method, Path(folder), full=full, core=core) as sides:

            def turn() -> None:
                ours, *others = peers.in_contention(sides)
                before = floor.pace(sizes)
                ours.step()
                paces.append((before + floor.pace(sizes)) / 2)
                for side in others:
                    side.step()

            repeat(turn)
            for side in sides:
                side.end()
        steps = sides[0].steps[1:]
        least = [floor.operations(case.method, sizes, Path(folder), step["length"]) for step in steps]
    whole = [sum(each.values()) / pace / step["cpu"] for each, pace, step in zip(least, paces, steps, strict=True)]
    return {
        "method": case.method,
        "size": case.size,
        "lengths": case.lengths,
        "length": statistics.mean(step["length"] for step in steps),
        "systems": {side.system.name: side.figures() for side in sides},
        "gflops_per_second": [pace / 1e9 for pace in paces],
        "gflops": {phase: statistics.mean(each[phase] for each in least) / 1e9 for phase in least[0]},
        "floor_share": statistics.median(whole),
        "floor_shares": {
            phase: statistics.median(
                each[phase] / pace / step["phases"][phase] for each, pace, step in zip(least, paces, steps, strict=True)
            )
            for phase in least[0]
        },
    }
