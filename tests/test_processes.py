"""Law 1: two processes are one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import alignzoo
alignzoo.run("dpo", out=sys.argv[1], schedule={"steps": 3, "prompts": 6}, evaluate={"prompts": 0})
alignzoo.run("ppo", out=sys.argv[2], schedule={"steps": 2, "prompts": 5}, evaluate={"prompts": 8})
"""


def lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "stage"} for line in found]


def train(folder: Path, processes: int) -> None:
    (folder.parent / "train.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*(launcher if processes > 1 else [sys.executable]), "train.py", str(folder / "dpo"), str(folder / "ppo")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_are_one(tmp_path: Path) -> None:
    train(tmp_path / "one", 1)
    train(tmp_path / "two", 2)
    alone, together = lines(tmp_path / "one" / "dpo"), lines(tmp_path / "two" / "dpo")
    assert len(together) == 3, "only the first process writes"
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    # Each process draws its own completions, so an online run is another sample; its batch is whole all the same.
    online = lines(tmp_path / "two" / "ppo")
    assert [line["completions"] for line in online] == [5, 5]
    assert online[0]["kl"] == pytest.approx(0, abs=1e-5)
