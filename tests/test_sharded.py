"""Weights that are spread over processes say, learn, generate and are saved as whole ones; each process holds its part.

The short half is tests/test_processes.py, of whose runs two are sharded.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharded_processes import CASES, CHECKS
from test_processes import flat, launch, read, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checks by two processes."""
    place = tmp_path_factory.mktemp("sharded") / "two"
    script = Path(__file__).with_name("sharded_processes.py")
    done = launch(2, str(script), str(place), cwd=place.parent, limit=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.mark.parametrize("name", CHECKS)
def test_sharded_weights_are_whole_ones(folder: Path, name: str) -> None:
    for rank in (0, 1):
        assert (folder / f"{name}-{rank}.txt").read_text() == "as it should be", f"process {rank}"


def test_each_process_holds_its_part(folder: Path) -> None:
    """Half of weights, gradients and moments with two processes, but for what does not divide; and all of them where
    every process has a copy."""
    for rank in (0, 1):
        held = json.loads((folder / f"held-{rank}.json").read_text())
        assert held.keys() == CASES.keys()
        for name, (ours, theirs) in held.items():
            share = ours / theirs
            assert share == 1 if "one copy" in name else 0.45 < share < 0.55, f"{name}: {share:.2f} of it"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process."""
    return train(tmp_path_factory.mktemp("sharded") / "one", 1, "sharded")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_with_sharded_weights_are_one(alone: Path, count: int, tmp_path: Path) -> None:
    folder = train(tmp_path / str(count), count, "sharded")
    for name in ("sft", "dpo", "reward-model", "grpo", "ppo"):
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            for one, other in zip(read(alone / name / file), read(folder / name / file), strict=True):
                assert flat(other) == pytest.approx(flat(one), rel=1e-4, abs=1e-4), f"{file} of {name}"


def test_a_killed_process_ends_the_other_and_any_number_goes_on(tmp_path: Path) -> None:
    """Two kills at moments that nobody chose: the other ends, and one process, then two, come to the same figures. And
    SIGTERM to one of two, and to one of four: all stop after the same step, and leave a checkpoint."""
    script = Path(__file__).with_name("killed_processes.py")
    done = launch(1, str(script), str(tmp_path / "kills"), "2", cwd=tmp_path, limit=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in (tmp_path / "kills" / "kills.jsonl").read_text().splitlines()]
    assert [each["goes on with"] for each in told] == [1, 2, 1, 1]
    for each in told:
        assert not any(each["codes after"]), each
        assert each["off by"] < 1e-6, each
    for each in told[:2]:
        assert each["others ended within"] < 60, each
    for each in told[2:]:
        assert each["codes"] == [1] * each["of"], each
        assert each["stopped"] == [f"Interrupted: dpo: stopped after step {each['steps']} of 5"], each
        assert each["checkpoint"] == f"step-{each['steps']:06d}", each
