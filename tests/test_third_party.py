"""A stranger's algorithm, written against the README alone: listed, shown, checked, trained, by its name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from alignzoo.registry import Registry
from alignzoo.testing import check_optimizer

PLUGIN = Path(__file__).parent / "third_party" / "alignzoo-simpo" / "alignzoo_simpo.py"


def alignzoo(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "alignzoo.cli", *arguments, "--plugin", str(PLUGIN)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_keeps_the_contract() -> None:
    registry = Registry()
    registry.add_file(PLUGIN)
    check_optimizer(registry.get("optimizer", "simpo")())


def test_it_is_listed_and_trained_by_its_name(tmp_path: Path) -> None:
    listed = json.loads(alignzoo("list", "--json", cwd=tmp_path))
    assert "simpo" in json.dumps(listed)
    short = ("schedule.steps=2", "schedule.prompts=8", "evaluate.prompts=8", "optimizer.gamma=0.3")
    alignzoo("run", "simpo", *short, "--out", "run", cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["stages"][0]["optimizer"] == "simpo"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["recipe"]["stage"][0]["optimizer"]["gamma"] == 0.3
    assert manifest["plugins"]["alignzoo_simpo.py"]["sha256"]
