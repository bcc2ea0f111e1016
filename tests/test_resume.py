"""Law 7: a run that is killed anywhere and resumed equals, on one processor, the run that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest

import alignzoo

FILES = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "result.json")
SHORT = {"evaluate.prompts": 8, "schedule.steps": 5, "schedule.save_every": 2, "schedule.eval_every": 3}
SETTINGS = {
    "sft": {"schedule.prompts": 8},
    "reward-model": {"schedule.prompts": 8},
    "dpo": {"schedule.prompts": 8},
    "grpo": {"schedule.prompts": 2, "sampler.n": 4},
    "reinforce": {"schedule.prompts": 8, "schedule.minibatch": 4},
    "ppo": {"schedule.prompts": 8, "schedule.minibatch": 4, "optimizer.kl_target": 1.0, "optimizer.kl_horizon": 20.0},
}


def train(name: str, out: Path, resume: bool, **schedule: float) -> None:
    every = {"schedule": {"samples_every": 2, **schedule}}
    alignzoo.run(name, out=out, resume=resume, **every, **SHORT, **SETTINGS[name])


def attempt(name: str, out: Path, steps: int = 0, wait: float = 0.0) -> bool:
    """Train in a process of its own; kill it some seconds after so many steps. Whether it came to its end."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(name, out, True))
    process.start()
    metrics = out / "metrics.jsonl"
    while steps and process.is_alive() and (not metrics.exists() or metrics.read_text().count("\n") < steps):
        time.sleep(0.002)
    process.join(wait if steps else None)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


LONG = ("reinforce", "ppo", "sft", "reward-model", "dpo")
"""Those that are tried in the long suite alone; what generates, scores and trains is in the short one."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SETTINGS]
)
def test_a_killed_run_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert attempt(name, tmp_path / "whole")
    rng = random.Random(name)
    ends = [attempt(name, tmp_path / "killed", steps, wait=rng.uniform(0, 0.05)) for steps in (1, 2, 4)]
    assert not all(ends), "no attempt was killed before its end"
    assert attempt(name, tmp_path / "killed")

    for file in FILES:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    model = Path("models") / name / "model.safetensors"
    assert (tmp_path / "killed" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train("sft", tmp_path / "run", resume=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.jsonl")}
    train("sft", tmp_path / "run", resume=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.jsonl")} == before


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    train("sft", tmp_path / "run", resume=False)
    with pytest.raises(alignzoo.RunError, match=r"schedule.lr: was 0.001, now 0.5"):
        train("sft", tmp_path / "run", resume=True, lr=0.5)
