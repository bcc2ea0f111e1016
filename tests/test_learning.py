"""Every method learns: on tasks whose optimum is known, from the shipped starting policy, with the recipe's settings.

One seed each, with room to the measured figures of three (benchmarks/results/learning.md). No order between methods is
asserted: it is not stable across starting policies.
"""

from __future__ import annotations

import json
import math
from hashlib import sha256
from pathlib import Path

import pytest

import alignzoo

slow = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param("ppo", marks=slow), "grpo"])
def test_a_verifiable_task_is_learnt(name: str, tmp_path: Path) -> None:
    result = alignzoo.run(name, task="sort", seed=1, out=tmp_path / "run")
    assert 0.25 <= result.before["accuracy"] <= 0.45
    assert result.after["accuracy"] >= 0.65
    assert result.after["accuracy_greedy"] >= 0.80


@slow
@pytest.mark.parametrize("name", ["rloo", "reinforce", "gmpo", "bond", "dapo", "replay"])
def test_the_others_learn_it_too(name: str, tmp_path: Path) -> None:
    short = {"schedule": {"steps": 20}, "evaluate": {"prompts": 128, "best_of": 0, "greedy": False}}
    result = alignzoo.run(name, task="sort", seed=1, out=tmp_path / "run", **short)
    assert 0.25 <= result.before["accuracy"] <= 0.45
    assert result.after["accuracy"] >= 0.5


@pytest.mark.parametrize(
    ("name", "gain", "kl"),
    [
        pytest.param("dpo", 0.6, 1.0, marks=slow),
        pytest.param("grpo", 0.4, 1.5, marks=slow),
        pytest.param("ppo", 0.7, 2.0, marks=slow),
    ],
)
def test_the_hidden_gold_rises_on_preferences(name: str, gain: float, kl: float, tmp_path: Path) -> None:
    result = alignzoo.run(name, task="shop", seed=1, out=tmp_path / "run")
    assert result.after["gold"] - result.before["gold"] >= gain
    assert 0 < result.after["kl"] <= kl


@slow
def test_kto_learns_from_single_labels_with_its_mismatched_answers(tmp_path: Path) -> None:
    """The answers of each pair are labelled one by one, good or bad, and gold rises beyond its 95 % interval."""
    result = alignzoo.run("kto", task="shop", seed=1, out=tmp_path / "run", evaluate={"greedy": False, "best_of": 0})
    before, after = result.before, result.after
    assert after["gold"] - before["gold"] > 1.96 * math.hypot(before["gold_se"], after["gold_se"])
    assert 0 < after["kl"] <= 1.0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [line["rows"] for line in lines]
    assert rows[0] == 64 and set(rows[1:]) == {96}  # two answers to each of 32 prompts, and one to another prompt
    assert all(line["baseline"] >= 0 for line in lines)  # here they become less probable, and z stays at its least, 0


@slow
def test_the_whole_pipeline(tmp_path: Path) -> None:
    result = alignzoo.run("rlhf", seed=1, out=tmp_path / "run")
    sft, scorer, ppo = result.stages
    assert sft.after["gold"] > sft.before["gold"]
    assert scorer.after["gold"] >= 0.70
    assert scorer.after["accuracy"] <= scorer.after["ceiling"] + 3 * scorer.after["ceiling_se"]
    assert ppo.after["gold"] - sft.after["gold"] >= 0.9
    assert ppo.after["kl"] <= 2.0


@slow
def test_a_random_reward_teaches_nothing(tmp_path: Path) -> None:
    """The negative control: a learner that gained by it would be measuring something else."""

    def noise(completions: list[object], **_: object) -> list[float]:
        return [int(sha256(str(completion).encode()).hexdigest(), 16) % 997 / 997 for completion in completions]

    result = alignzoo.run("grpo", task="sort", reward=noise, out=tmp_path / "run")
    assert result.after["gold"] <= result.before["gold"] + 0.1
