"""Several processes are one, but for the order in which they add; in float64 that is next to nothing. Where one of
them fails or is interrupted, all end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import alignzoo_tiny
from rounding import depth, seeds, within
from several_processes import SHOP, SORT


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def flat(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """A line's figures, with those of its tables."""
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}: ")
        elif not isinstance(value, str):
            found[prefix + key] = value
    return found


def lines(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name != "stage"} for line in read(folder / "metrics.jsonl")]


def launch(count: int, *arguments: str, cwd: Path, limit: float = 240) -> subprocess.CompletedProcess[str]:
    """A Python program's end, run by so many processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "ALIGNZOO_REFERENCES": "off"}
    command = [*(launcher if count > 1 else [sys.executable]), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit)


def train(folder: Path, count: int, *what: str) -> Path:
    script = Path(__file__).with_name("several_processes.py")
    done = launch(count, str(script), str(folder), *what, cwd=folder.parent, limit=600 + 20 * len(seeds()))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The same runs by one process, by two and by three, each when it is first asked for."""
    folder = tmp_path_factory.mktemp("processes")
    words = ("methods", "counts", "late")
    more = {1: ["float64"], 2: ["held", "float64"]}
    return cache(lambda count: train(folder / str(count), count, *more.get(count, ["held"]), *words))


COUNTS = [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 4))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", seeds())
def test_two_processes_are_one(folders: Callable[[int], Path], seed: int, dtype: torch.dtype) -> None:
    alone, together = (lines(folders(count) / f"dpo-{dtype}-{seed}") for count in (1, 2))
    assert len(together) == 3, "only the first process writes"
    config = AutoConfig.from_pretrained(Path(alignzoo_tiny.__file__).parent / "assets" / "base")
    assert alone[0]["accuracy"] == 0.5, "before the first update no answer is preferred"
    for step, (one, two) in enumerate(zip(alone, together, strict=True), 1):
        assert two.keys() == one.keys()
        additions = step * depth(config, int(one["tokens/trained"]), gradient=True)
        for name, expected in one.items():
            allowed = within(expected, additions, dtype)
            assert two[name] == pytest.approx(expected, rel=0, abs=allowed), f"{name} of step {step}"


@pytest.mark.parametrize("name", [*SHOP, *SORT])
@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_processes_is_one(folders: Callable[[int], Path], count: int, name: str) -> None:
    """Five groups a step, generated or given, on one process, two and three: the same texts, and figures to 1e-4."""
    alone, together = folders(1) / name, folders(count) / name
    first, second = (read(folder / "samples.jsonl") for folder in (alone, together))
    assert [each["completion"] for each in second] == [each["completion"] for each in first]
    assert len({each["completion"] for each in first if each["when"] == "training"}) > 5
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        for one, other in zip(read(alone / file), read(together / file), strict=True):
            assert flat(other) == pytest.approx(flat(one), rel=1e-4, abs=1e-4), f"{file} of {name}"


@pytest.mark.parametrize("count", COUNTS)
def test_no_process_keeps_a_model_whole_that_is_spread(folders: Callable[[int], Path], count: int) -> None:
    """A policy and its reference, and one with an adapter, are read layer by layer; of each a process has its part, and
    what does not divide."""
    for rank in range(count):
        both, adapted = json.loads((folders(count) / f"held-{rank}.json").read_text())
        assert both == pytest.approx(2 / count, abs=0.15), f"process {rank} holds {both:.2f} times a model's weights"
        assert adapted == pytest.approx(1 / count, abs=0.15), f"process {rank}, with an adapter: {adapted:.2f} times"


@pytest.mark.parametrize("count", COUNTS)
def test_every_process_makes_the_same_passes_and_asks_of_its_own_share(
    folders: Callable[[int], Path], count: int
) -> None:
    """Five groups on three processes, and two, which leave one of the three idle."""
    (alone,) = counted(folders(1), 1)
    together = counted(folders(count), count)
    for run, expected in alone.items():
        for kind in ("forward", "backward"):
            assert len({each[run][kind] for each in together}) == 1, f"{kind} of {run}"
        assert sum(each[run]["asked"] for each in together) == expected["asked"], run


@pytest.mark.parametrize("count", COUNTS)
def test_several_processes_generate_ahead_as_one_does(folders: Callable[[int], Path], count: int) -> None:
    """Four groups a step: the same texts, ages and figures; and what one process cannot score, none trains on."""
    alone, together = (folders(each) for each in (1, count))
    first, second = (read(folder / "late" / "samples.jsonl") for folder in (alone, together))
    assert [each["completion"] for each in second] == [each["completion"] for each in first]
    found = lines(together / "late")
    assert [line["staleness/max"] for line in found] == [0, 1, 2, 2, 2]
    for one, other in zip(lines(alone / "late"), found, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    costs = [[line["judge/requests"] for line in read(folder / "late" / "costs.jsonl")] for folder in (alone, together)]
    assert costs[0] == costs[1] == [4.0] * 5
    assert len(lines(together / "failed")) == 2
    *others, failed = ((together / f"failed-{rank}.txt").read_text() for rank in range(count))
    assert failed.startswith("RewardError: the reward 'toy' raised ValueError: the judge is out of order")
    assert others == [f"Told: process {count - 1}: {failed.removeprefix('RewardError: ')}"] * (count - 1)


def counted(folder: Path, count: int) -> list[dict[str, dict[str, int]]]:
    return [json.loads((folder / f"counts-{rank}.json").read_text()) for rank in range(count)]


def test_one_that_is_interrupted_or_fails_ends_all(tmp_path: Path) -> None:
    """SIGTERM to process 1 alone stops both after the same step, with a checkpoint; its error becomes the other's."""
    script = Path(__file__).with_name("several_processes.py")
    done = launch(2, str(script), str(tmp_path), "interrupted", "failing", cwd=tmp_path)
    assert done.returncode != 0
    for rank in (0, 1):
        assert (tmp_path / f"interrupted-{rank}").read_text() == "grpo: stopped after step 2 of 9"
    assert [each.name for each in (tmp_path / "interrupted" / "checkpoints" / "grpo").iterdir()] == ["step-000002"]
    first, second = ((tmp_path / f"failing-{rank}").read_text() for rank in (0, 1))
    assert "the server of the reward is down" in second
    assert first == f"process 1: {second}"
    assert [each.name for each in (tmp_path / "failing").glob("progress-*")] == ["progress-0"]
