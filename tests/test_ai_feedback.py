"""The recipes of AI feedback: whole on the embedded world, against an endpoint, and with Anthropic's prompts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from judge_server import Heard, JudgeServer, judging

SHARED = Path(__file__).parents[1].parent / "shared"
ANTHROPIC = SHARED / "data" / "constitutional"
STORIES = SHARED / "models" / "stories260K"

FEW = {"steps": 2, "prompts": 2, "minibatch": 0}
RECIPES = ("sl-cai", "rlaif-grpo", "rlaif-ppo", "rlaif-dpo", "cai")


def lines(out: Path, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{file}.jsonl").read_text().splitlines()]


def shortened(recipe: str) -> list[str]:
    """Two steps of two prompts in every stage."""
    stages = {"cai": ("sl-cai", "preference-model", "rl"), "sl-cai": ("sl-cai",)}.get(recipe, ("rlaif",))
    few = [f"{stage}.schedule.{key}={value}" for stage in stages for key, value in FEW.items()]
    return few + [f"{stage}.evaluate.{key}" for stage in stages for key in ("prompts=4", "best_of=0", "greedy=false")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_on_its_own_task(recipe: str, tmp_path: Path) -> None:
    result = alignzoo.run(recipe, overrides=shortened(recipe), out=tmp_path / "run")
    assert result.model.is_dir()
    assert "rate/harmful_compliance" in result.after or "rate/over_refusal" in result.after
    trained = [line for line in lines(tmp_path / "run", "samples") if line["when"] == "training"]
    if recipe in ("sl-cai", "cai"):
        trail = [line["trail"] for line in trained if line["stage"] == "sl-cai"]
        assert {each["step"] for each in trail} == {"answer", *(f"revision {number}" for number in range(1, 5))}
        assert {each["principle"] for each in trail if "principle" in each} <= {
            *("polite", "harmless", "non_evasive", "brief", "fluent")
        }
    else:
        parts = {name for line in trained for name in line["parts"]}
        assert {"constitution/harmless", "constitution/non_evasive"} <= parts


@pytest.mark.slow
def test_constitutional_ai_runs_on_ones_own_model_and_prompts(tiny_model: Path, tmp_path: Path) -> None:
    """Every role that a recipe leaves open is the user's own model's: writer, judge, and start of every stage."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(6)))
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)  # with room for a judge's question in bytes
    config = json.loads((model / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (model / "config.json").write_text(json.dumps(config))
    own = [f"policy.model={model}", f"data.path={tmp_path / 'prompts.jsonl'}", "data.heldout=0", "data.chat=user"]
    own += ["policy.max_new_tokens=6", "preference-model.sampler.writer.max_new_tokens=6"]
    few = [f"{stage}.schedule.steps=1" for stage in ("sl-cai", "preference-model", "rl")]
    few += [f"{stage}.schedule.prompts=2" for stage in ("sl-cai", "preference-model", "rl")]
    result = alignzoo.run("cai", overrides=[*own, *few], out=tmp_path / "run")
    assert [stage.name for stage in result.stages] == ["sl-cai", "preference-model", "rl"]
    (reward,) = json.loads((tmp_path / "run" / "manifest.json").read_text())["recipe"]["stage"][1]["reward"]
    assert reward["judge"]["model"] == str(model)


class Obliging:
    """A program behind the endpoint: judges by vowels, and answers requests for text with a fixed sentence."""

    def __init__(self) -> None:
        self.written = 0

    def __call__(self, heard: Heard) -> str:
        if heard.answers:
            return judging(heard)
        self.written += 1
        return "hello . ask at the desk for a new key ."


@pytest.mark.parametrize(
    "recipe", [pytest.param(each, marks=pytest.mark.slow) if each == "cai" else each for each in RECIPES]
)
def test_a_recipe_runs_against_an_endpoint(recipe: str, judge_server: JudgeServer, tmp_path: Path) -> None:
    """`zoo` is not the task's own constitution: an endpoint reads any, and the requests show that it was read."""
    program = judge_server.program = Obliging()
    judge = f'{{name="openai", model="m", base_url="{judge_server.url}"}}'
    where = {
        "sl-cai": [f"sampler.writer={judge}", "sampler.constitution=zoo"],
        "cai": [
            f"sl-cai.sampler.writer={judge}",
            "sl-cai.sampler.constitution=zoo",
            f"preference-model.reward.judge={judge}",
            "preference-model.reward.constitution=zoo",
        ],
    }.get(recipe, [f"reward.judge={judge}", 'reward.principles=["harmless", "polite"]'])
    result = alignzoo.run(recipe, overrides=[*shortened(recipe), *where], out=tmp_path / "run")
    assert result.model.is_dir() and judge_server.answered > 0
    asked = " ".join(message["content"] for heard in judge_server.heard for message in heard.messages)
    if recipe in ("sl-cai", "cai"):
        assert program.written > 0 and "Rewrite the answer" in asked
        trail = [line["trail"] for line in lines(tmp_path / "run", "samples") if "critique" in line.get("trail", {})]
        assert trail and all(each["critique"] == "hello . ask at the desk for a new key ." for each in trail)
    if recipe != "sl-cai":
        assert "which reply" in asked.lower() or "which answer" in asked.lower()
    spent = sum(stage.costs.get("judge/requests", 0) for stage in result.stages)
    assert spent == judge_server.answered


def test_another_task_takes_an_endpoint_as_judge(judge_server: JudgeServer, tmp_path: Path) -> None:
    judge = f'{{name="openai", model="m", base_url="{judge_server.url}"}}'
    overrides = [*shortened("rlaif-grpo"), f"reward.judge={judge}", 'reward.principles=["helpful"]']
    result = alignzoo.run("rlaif-grpo", task="shop", overrides=overrides, out=tmp_path / "run")
    assert judge_server.answered > 0 and "rate/acting" in result.after


@pytest.mark.skipif(not (ANTHROPIC.is_dir() and STORIES.is_dir()), reason=f"no real prompts and model at {SHARED}")
def test_anthropics_prompts_with_one_small_model_in_every_role(tmp_path: Path) -> None:
    """A model of 260 thousand parameters that tells stories: nonsense for verdicts, all of the plumbing."""
    rows = [{"prompt": f"Once upon a time, {who} was"} for who in ("a cat", "a dog", "Tom", "Lily", "a bird", "a king")]
    policy = {"name": "hf", "model": str(STORIES), "max_new_tokens": 16}
    common: dict[str, Any] = {"policy": policy, "data": rows, "evaluate": {"prompts": 0}}
    schedule = {"steps": 1, "prompts": 2, "samples_every": 1}
    alignzoo.run(
        "sft",
        sampler={"name": "revise", "constitution": str(ANTHROPIC), "rounds": 2},
        schedule=schedule,
        out=tmp_path / "revise",
        **common,
    )
    written = lines(tmp_path / "revise", "samples")
    assert [line["trail"]["step"] for line in written] == ["answer", "revision 1", "revision 2"] * 2
    assert all(line["trail"]["principle"].startswith("harmful") for line in written if "principle" in line["trail"])
    alignzoo.run(
        "grpo",
        sampler={"name": "policy", "n": 2},
        reward={
            "name": "constitution",
            "constitution": str(ANTHROPIC),
            "judge": {"name": "local", "model": str(STORIES), "max_new_tokens": 16},
        },
        schedule=schedule,
        out=tmp_path / "constitution",
        **common,
    )
    parts = {name for line in lines(tmp_path / "constitution", "samples") for name in line["parts"]}
    assert {f"constitution/question{number}" for number in range(16)} <= parts
