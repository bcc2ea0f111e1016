"""What `alignzoo plan` says beside what is then measured: peak memory and seconds of a step."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
import pytest
import workload

STEPS = 3
OURS = peers.System("alignzoo", "ours.py")


@pytest.mark.parametrize("size", ["S", "M"])
@pytest.mark.parametrize("method", ["sft", "dpo", "grpo", "ppo"])
def test_plan(method: str, size: str, benchmark: Any, record: Any, tmp_path: Path) -> None:
    workload.make(
        tmp_path, workload.SIZES[size], ends=0.0
    )  # rollouts go to the cap, whose length the plan is asked for
    planner = replace(OURS, variant=str(workload.CAP), name="plan")
    said = peers.Side(planner, f"plan-{method}", tmp_path, tmp_path).told()["plan"]
    side = peers.Side(OURS, method, tmp_path, tmp_path)
    try:
        side.ready()
        side.step()
        benchmark.pedantic(side.step, rounds=STEPS, iterations=1)
        side.end()
    finally:
        side.close()
    seconds = statistics.median(step["cpu"] for step in side.steps[1:])
    row = {
        "method": method,
        "size": size,
        "planned_seconds": sum(said["seconds"].values()),
        "seconds": seconds,
        "planned_bytes": said["peak"],
        "bytes": side.peak,
        "planned_phases": said["seconds"],
        "planned_parts": said["bytes"],
    }
    record.add("plan", f"{method}-{size}", row)
    benchmark.extra_info.update(row)
