"""Law 1: two processes are one, but for the order in which they add; in float64 that is next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import alignzoo_tiny
from rounding import bound, depth, seeds, within

SCRIPT = """
import sys
import torch
import alignzoo
from rounding import computing, seeds
for seed in seeds():
    for dtype in (torch.float32, torch.float64):
        with computing(dtype):
            alignzoo.run(
                "dpo",
                out=f"{sys.argv[1]}/dpo-{dtype}-{seed}",
                seed=seed,
                schedule={"steps": 3, "prompts": 6},
                evaluate={"prompts": 0},
            )
alignzoo.run("ppo", out=f"{sys.argv[1]}/ppo", schedule={"steps": 2, "prompts": 5}, evaluate={"prompts": 8})
"""


def lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "stage"} for line in found]


def train(folder: Path, processes: int) -> None:
    (folder.parent / "train.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(launcher if processes > 1 else [sys.executable]), "train.py", str(folder)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    limit = 240 + 20 * len(seeds())
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same runs by one process and by two."""
    folder = tmp_path_factory.mktemp("processes")
    train(folder / "one", 1)
    train(folder / "two", 2)
    return folder / "one", folder / "two"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", seeds())
def test_two_processes_are_one(runs: tuple[Path, Path], seed: int, dtype: torch.dtype) -> None:
    alone, together = (lines(folder / f"dpo-{dtype}-{seed}") for folder in runs)
    assert len(together) == 3, "only the first process writes"
    config = AutoConfig.from_pretrained(Path(alignzoo_tiny.__file__).parent / "assets" / "base")
    assert alone[0]["accuracy"] == 0.5, "before the first update no answer is preferred"
    for step, (one, two) in enumerate(zip(alone, together, strict=True), 1):
        assert two.keys() == one.keys()
        additions = step * depth(config, int(one["tokens/trained"]), gradient=True)
        for name, expected in one.items():
            allowed = within(expected, additions, dtype)
            assert two[name] == pytest.approx(expected, rel=0, abs=allowed), f"{name} of step {step}"


def test_an_online_batch_is_whole(runs: tuple[Path, Path]) -> None:
    """Each process draws its own completions, so an online run is another sample; its batch is whole all the same."""
    online = lines(runs[1] / "ppo")
    assert [line["completions"] for line in online] == [5, 5]
    assert online[0]["kl"] == pytest.approx(0, abs=bound(1, 1.0))
