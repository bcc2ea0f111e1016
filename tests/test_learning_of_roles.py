"""Methods whose reference moves, generates or teaches, and transcripts of two turns, learn on embedded tasks, by public
names alone.

One seed each. "Learns" is: the hidden gold of held-out prompts rises beyond its 95 % interval.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import alignzoo
from alignzoo.registry import Registry
from alignzoo_tiny.tasks import Sort

EVALUATE = {"prompts": 256, "best_of": 0, "greedy": False}

pytestmark = pytest.mark.slow


def gain(result: Any) -> float:
    """How many half intervals gold has risen by."""
    stage = result.stages[-1]
    error = math.hypot(stage.before["gold_se"], stage.after["gold_se"])
    return (stage.after["gold"] - stage.before["gold"]) / (1.96 * error)


@pytest.mark.parametrize(("alpha", "tau"), [(0.6, 1), (1.0, 8)], ids=["moving average", "periodic"])
def test_tr_dpo(alpha: float, tau: int, tmp_path: Path) -> None:
    optimizer = {"name": "tr-dpo", "alpha": alpha, "tau": tau, "beta": 0.1}
    short = {"schedule": {"steps": 30}, "evaluate": EVALUATE}
    assert gain(alignzoo.run("dpo", task="shop", seed=1, out=tmp_path / "run", optimizer=optimizer, **short)) > 1


def test_xpo_of_pairs_of_the_policy_and_its_reference(tmp_path: Path) -> None:
    short = {"schedule": {"steps": 30, "prompts": 32}, "evaluate": EVALUATE}
    parts = {"optimizer": {"name": "xpo", "beta": 0.1}, "sampler": "and-reference"}
    assert gain(alignzoo.run("online-dpo", task="shop", seed=1, out=tmp_path / "run", **parts, **short)) > 1


def deeper(path: Path) -> Path:
    """The embedded starting policy with one layer more, which adds nothing yet."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    small = AutoModelForCausalLM.from_pretrained(Sort().policy)
    config = type(small.config)(**small.config.to_dict() | {"num_hidden_layers": small.config.num_hidden_layers + 1})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(small.state_dict(), strict=False)
    with torch.no_grad():
        for layer in (model.model.layers[-1].self_attn.o_proj, model.model.layers[-1].mlp.down_proj):
            layer.weight.zero_()
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(Sort().policy).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A larger model that was trained on the task."""
    folder = tmp_path_factory.mktemp("teacher")
    given: dict[str, Any] = {
        "policy": {"model": str(deeper(folder / "start")), "max_new_tokens": 8},
        "optimizer": {"kl": 0.01, "epochs": 2},
        "schedule": {"steps": 40, "prompts": 12, "minibatch": 6, "lr": 4e-4},
        "evaluate": {"prompts": 0},
    }
    result = alignzoo.run("grpo", task="sort", seed=9, out=folder / "run", **given)
    return Path(result.stages[-1].model)


@pytest.mark.parametrize("name", ["on-policy-distillation", "gkd"])
def test_distillation_from_a_larger_teacher(name: str, teacher: Path, tmp_path: Path) -> None:
    short = {"schedule": {"steps": 20}, "evaluate": EVALUATE, "optimizer": {"name": name, "teacher": str(teacher)}}
    assert gain(alignzoo.run("grpo", task="sort", seed=1, out=tmp_path / "run", **short)) > 1


def test_a_transcript_with_what_the_policy_has_not_said_between_its_turns(tmp_path: Path) -> None:
    registry = Registry()
    registry.add_file(Path(__file__).parent / "public_api" / "alignzoo_second_try.py")
    given: dict[str, Any] = {"sampler": "second-try", "schedule": {"steps": 40, "prompts": 12, "minibatch": 6}}
    alignzoo.run("grpo", task="sort", seed=1, out=tmp_path / "run", registry=registry, evaluate={"prompts": 0}, **given)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward/mean"] for line in lines]
    before, after = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    error = math.sqrt(2 * 0.25 / (5 * 12))  # at most, of five steps of twelve prompts
    assert after > before + 1.96 * error, (before, after)
