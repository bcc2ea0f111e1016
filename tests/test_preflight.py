"""A pipeline is checked whole before its first step, and what has not begun may still be changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import alignzoo
from alignzoo import AlignzooError, DataError, Group, ModelError, Policy, RewardError, RunError, Score
from alignzoo.interfaces import CheckContext, DiskUse
from alignzoo.recipe import load
from alignzoo.recipe.changes import changes
from alignzoo.registry import Registry
from alignzoo.runs import preflight

ROWS = [{"prompt": f"Count to {number}: ", "answer": str(number)} for number in range(8)]
CHATS = [
    {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}"}]} for n in range(8)
]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Say {n}."}],
        "chosen": [{"role": "assistant", "content": f"{n}"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    for n in range(8)
]
ASKED = [{"prompt": [{"role": "user", "content": f"Say {n}."}]} for n in range(8)]
SHORT = {"schedule": {"steps": 1, "prompts": 2}, "evaluate": {"prompts": 1, "best_of": 0}}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def pipeline(tmp_path: Path, plain_model: Path) -> dict[str, Any]:
    """RLHF on a base model whose tokenizer has no chat template."""
    return {
        "policy": {"model": str(plain_model), "max_new_tokens": 4, "chat_template": "chatml", "device": "cpu"},
        "sft": SHORT | {"data": {"path": write(tmp_path / "chats.jsonl", CHATS)}},
        "reward-model": SHORT | {"data": {"path": write(tmp_path / "pairs.jsonl", PAIRS)}},
        "ppo": SHORT | {"data": {"path": write(tmp_path / "asked.jsonl", ASKED)}},
    }


def with_(settings: dict[str, Any], stage: str, **changes: Any) -> dict[str, Any]:
    return settings | {stage: settings[stage] | changes}


def nothing_trained(out: Path) -> bool:
    return not (out / "metrics.jsonl").exists() and not (out / "models").exists()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"data": {"path": "nosuch.jsonl"}}, DataError, r"^ppo\.data: nosuch\.jsonl: no such file"),
        (
            {"reward": {"name": "python", "function": "nosuch:f"}},
            RewardError,
            r"^ppo\.reward: reward function 'nosuch:f'",
        ),
        (
            {"reward": {"name": "model", "model": "./nosuch"}},
            ModelError,
            r"^ppo\.reward: the model directory ./nosuch does",
        ),
        ({"reward": {"name": "model", "model": "stage:sft"}}, ModelError, r"^ppo\.reward: .*trains a language model"),
        ({"policy": {"critic_model": "./nosuch"}}, ModelError, r"^ppo\.policy: the model directory ./nosuch does"),
        ({"reward": {"name": "match"}}, RewardError, r"^ppo\.reward: training prompt 1, .*no column 'answer'"),
    ],
    ids=["data", "function", "reward model", "language model as reward", "critic", "column"],
)
def test_a_mistake_in_the_last_stage_costs_nothing_of_the_first(
    tmp_path: Path, pipeline: dict[str, Any], change: dict[str, Any], error: type[AlignzooError], says: str
) -> None:
    with pytest.raises(error, match=says):
        alignzoo.run("rlhf", out=tmp_path / "out", **with_(pipeline, "ppo", **change))
    assert nothing_trained(tmp_path / "out")


def test_a_reward_model_of_no_head_is_found_before_the_first_step(
    tmp_path: Path, pipeline: dict[str, Any], plain_model: Path
) -> None:
    reward = {"name": "model", "model": str(plain_model)}
    with pytest.raises(ModelError, match=r"^ppo\.reward: .* is no reward model: it holds LlamaForCausalLM"):
        alignzoo.run("rlhf", out=tmp_path / "out", **with_(pipeline, "ppo", reward=reward))
    assert nothing_trained(tmp_path / "out")


def test_a_judge_that_would_ask_a_reward_model_is_found_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"preference-model\.reward: Constitution asks the policy in training"):
        alignzoo.run("cai", out=tmp_path / "run", overrides=["preference-model.reward.judge=local"])
    assert nothing_trained(tmp_path / "run")


def test_conversations_without_a_template_are_found_before_the_first_step(
    tmp_path: Path, pipeline: dict[str, Any]
) -> None:
    policy = {key: value for key, value in pipeline["policy"].items() if key != "chat_template"}
    with pytest.raises(ModelError, match=r"^sft\.policy: .*chat template"):
        alignzoo.run("rlhf", out=tmp_path / "out", **pipeline | {"policy": policy})
    assert nothing_trained(tmp_path / "out")


def test_a_stage_that_has_not_begun_may_be_changed_on_resume_and_a_template_goes_with_the_model(
    tmp_path: Path, pipeline: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    reward = tmp_path / "reward.py"
    reward.write_text("def scored(completions, **columns):\n    raise ValueError('not today')\n")
    function = {"name": "python", "function": f"{reward}:scored"}
    with pytest.raises(RewardError, match="not today"):  # in the first evaluation, before the stage has begun
        alignzoo.run("rlhf", out=out, **with_(pipeline, "ppo", reward=function))
    changed = with_(with_(pipeline, "ppo", reward={"name": "length"}), "sft", seed=4)
    with pytest.raises(RunError, match=r"another recipe.*\n  sft\.seed: was 0, now 4\n.*begun: sft, reward-model\."):
        alignzoo.run("rlhf", out=out, resume=True, **changed)
    before = (out / "models" / "sft" / "model.safetensors").stat().st_mtime_ns
    result = alignzoo.run("rlhf", out=out, resume=True, **with_(pipeline, "ppo", reward={"name": "length"}))
    assert [stage.name for stage in result.stages] == ["sft", "reward-model", "ppo"]
    assert (out / "models" / "sft" / "model.safetensors").stat().st_mtime_ns == before
    for stage in result.stages:  # the template that was given goes with the model
        tokenizer = AutoTokenizer.from_pretrained(stage.model)
        shown = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
        assert shown == "<|im_start|>user\nhi<|im_end|>\n"


def recipe(*stages: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"name": "r", "stage": [{"name": name, **settings} for name, settings in stages]}


def test_what_differs_is_told_in_the_recipes_order_by_the_key_of_an_override() -> None:
    former = recipe(("sft", {"task": {"name": "shop"}, "data": {"kind": "a"}}), ("rl", {"seed": 0}))
    now = recipe(("sft", {"task": {"name": "sort"}, "data": {"kind": "b"}}), ("rl", {"seed": 1}))
    assert changes(former, now, ["sft"]) == [
        "sft.task.name: was 'shop', now 'sort'",
        "sft.data.kind: was 'a', now 'b'",
    ]
    assert changes(former, now, []) == []
    assert changes(former, now, ["sft", "rl"])[-1] == "rl.seed: was 0, now 1"


def test_a_stage_that_has_begun_can_neither_go_nor_be_preceded_by_another() -> None:
    former = recipe(("sft", {}), ("rl", {}))
    assert changes(former, recipe(("rl", {})), ["sft"]) == ["sft: this stage has begun, and is no longer there"]
    between = recipe(("new", {}), ("sft", {}), ("rl", {}))
    assert changes(former, between, ["sft"]) == ["new: this stage has not begun, but stands before one that has"]
    assert changes(former, recipe(("sft", {}), ("other", {}), ("rl", {})), ["sft"]) == []


# --- parts that can be checked ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    """A part within a part."""

    told: list[CheckContext] = field(default_factory=list)
    fails: bool = False

    def check(self, context: CheckContext) -> None:
        self.told.append(context)
        if self.fails:
            raise ZeroDivisionError("a bug of its own")


@dataclass(frozen=True)
class Outer:
    """A reward that holds a part, and cannot be checked itself."""

    inner: Inner

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(len(c.text))) for c in group.completions) for group in groups]


def run(model: Path, out: Path, reward: Any, **settings: Any) -> Any:
    policy = {"model": str(model), "max_new_tokens": 4, "device": "cpu"}
    return alignzoo.run("grpo", policy=policy, data=ROWS, reward=reward, out=out, **SHORT | settings)


def test_every_part_is_checked_once_with_the_prompts_of_the_first_step(tmp_path: Path, plain_model: Path) -> None:
    inner = Inner()
    run(plain_model, tmp_path / "out", Outer(inner), schedule={"steps": 1, "prompts": 2}, sampler={"n": 2})
    (context,) = inner.told
    assert context.online and context.ask and not context.earlier
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    trained = {line["prompt"] for line in lines if line["when"] == "training"}
    assert trained == {prompt.messages for prompt in context.first}


def test_a_check_that_raises_is_told_with_the_key_of_the_part(tmp_path: Path, plain_model: Path) -> None:
    with pytest.raises(
        RunError, match=r"^grpo\.reward\.inner could not be checked, .*ZeroDivisionError: a bug of its own"
    ):
        run(plain_model, tmp_path / "out", Outer(Inner(fails=True)), sampler={"n": 2})
    assert nothing_trained(tmp_path / "out")


def test_a_disk_that_is_too_small_is_found_before_the_first_step(
    tmp_path: Path, plain_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignzoo_hf.model.spec import HF

    monkeypatch.setattr(HF, "disk_use", lambda spec, context: DiskUse(model=10**15, checkpoint=10**15))
    schedule = {"steps": 4, "prompts": 2, "save_every": 1, "keep": 2}
    with pytest.raises(
        RunError, match=r"GB free, but models and checkpoints take about 4.08e\+06 GB \(grpo 4.08e\+06\)"
    ):
        run(plain_model, tmp_path / "out", "length", schedule=schedule)
    assert nothing_trained(tmp_path / "out")


def test_data_of_equal_settings_are_read_once(
    tmp_path: Path, pipeline: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    whole = preflight.train_and_heldout

    def counted(data: Any) -> Any:
        reads.append(data.path)
        return whole(data)

    monkeypatch.setattr(preflight, "train_and_heldout", counted)
    registry = Registry()
    registry.load_all()
    pairs = pipeline["reward-model"]["data"]["path"]
    small = {"policy.chat_template": "chatml", "policy.max_new_tokens": 40}
    overrides = {"policy.model": pipeline["policy"]["model"], "data.path": pairs, **small}
    checked = preflight.check(load("rlhf", overrides, registry=registry), {}, tmp_path / "out", ask=False)
    assert reads == [pairs]
    assert list(checked) == ["sft", "reward-model", "ppo"]
