"""`alignzoo list`: what sixty strangers' plugins add to it. Each imports torch at its top, and is never imported."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import results

PLUGIN = '''\
import torch
from dataclasses import dataclass

import alignzoo


@dataclass(frozen=True)
class Nice:
    """Scores everything alike."""

    def score(self, groups, policy):
        return []


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("nice{number}", Nice)

'''
FILLER = "".join(f"\ndef f{i}(x):\n    return [y + {i} for y in range(x)]\n" for i in range(60))
TIMES = 10


@pytest.mark.parametrize("plugins", [0, 60])
def test_list(plugins: int, tmp_path: Path, benchmark: Any, record: results.Recorder) -> None:
    for number in range(plugins):
        (tmp_path / f"stranger{number}.py").write_text(PLUGIN.format(number=number) + FILLER)
        info = tmp_path / f"alignzoo_stranger{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: alignzoo-stranger{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[alignzoo]\ns{number} = stranger{number}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    cpu: list[float] = []

    def listing() -> str:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "alignzoo.cli", "list"]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return said

    said = benchmark.pedantic(listing, rounds=TIMES, warmup_rounds=1)
    assert sum(f" nice{number} " in said for number in range(plugins)) == plugins
    figures = {"plugins": plugins, "cpu_seconds": statistics.median(cpu[1:]), "cpu_seconds_least": min(cpu[1:])}
    record.add("listing", f"{plugins} plugins", figures)
