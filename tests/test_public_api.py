"""Algorithms of other shapes, each a plugin file that knows only what `alignzoo` and `alignzoo.functional` name.

An adaptive KL penalty with a critic, steered by the method's own metric; rewards for single tokens with a credit that
is each token's own; an environment of two turns, which every online method learns from as it is. Those with a moving
baseline, a resampling or a buffer are plugins of the house.
"""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import alignzoo
from alignzoo import Completion, Forward, Group, Prompt, StepReport
from alignzoo import functional as fn
from alignzoo.interfaces import PolicyInfo
from alignzoo.registry import Registry
from alignzoo.testing import check_optimizer, check_reward, check_sampler, toy_batch, toy_policy, toy_prompts
from alignzoo.testing.stopping import resumes
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from toy_run import train

FILES = sorted((Path(__file__).parent / "public_api").glob("*.py"))


@pytest.fixture(scope="module")
def zoo() -> Registry:
    registry = Registry()
    for path in FILES:
        registry.add_file(path)
    return registry


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_knows_public_names_alone(path: Path) -> None:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {f"{node.module}.{a.name}" for node in found if isinstance(node, ast.ImportFrom) for a in node.names}
    ours = {name for name in names if name.startswith("alignzoo")}
    assert ours and ours <= {f"alignzoo.{name}" for name in alignzoo.__all__}


@pytest.mark.parametrize("name", ["adaptive-kl", "reward-to-go", "gdpo", "tr-dpo", "on-policy-distillation", "gkd"])
def test_it_keeps_the_contract(zoo: Registry, name: str) -> None:
    check_optimizer(zoo.get("optimizer", name)())


def test_xpo_keeps_the_contract(zoo: Registry) -> None:
    check_optimizer(zoo.get("optimizer", "xpo")(), columns=["by_reference"])


def test_beta_follows_the_target(zoo: Registry) -> None:
    def after(moved: float) -> float:
        return float(zoo.get("optimizer", "adaptive-kl")().next(StepReport(1, 9, {"approx_kl": moved})).beta)

    # target 0.01: above 0.015 twice as much, below 0.00667 half
    assert [after(moved) for moved in (0.016, 0.014, 0.007, 0.006)] == [2.0, 1.0, 1.0, 0.5]


def test_the_penalty_stands_in_place_of_the_clip(zoo: Registry) -> None:
    # ρ = e^0.5 = 1.648721: the KL is k3 with x = -0.5, e^0.5 - 1 - 0.5 = 0.148721; A = 2, β = 3, V = R:
    # -1.648721·2 + 3·0.148721 = -2.851279
    optimizer = replace(zoo.get("optimizer", "adaptive-kl")(), beta=3.0)
    batch = toy_batch([1], group=[0], rewards=[0.0])
    column = batch.mask.float()
    batch = replace(batch, old_logprobs=-1.0 * column, advantages=2.0 * column, returns=column)
    terms = optimizer.loss(batch, Forward(logprobs=-0.5 * column, values=column))
    assert float(terms.loss.sum()) == pytest.approx(-2.851279, rel=1e-5)
    assert float(terms.metrics["approx_kl"].sum()) == pytest.approx(0.148721, rel=1e-5)


def test_each_token_is_credited_with_what_follows(zoo: Registry) -> None:
    # γ = 0.5; rows of 3 and 2 tokens, dense (1, 0, 2) and (0, 4), scores 1 and 0 at the end:
    # G = (1 + 0.5·1.5, 0 + 0.5·3, 3) = (1.75, 1.5, 3) and (0 + 0.5·4, 4) = (2, 4)
    # means by place: 1.875, 2.75, 3 (alone)
    batch = toy_batch([3, 2], group=[0, 0], rewards=[1.0, 0.0])
    batch = replace(batch, token_rewards=fn.scatter(torch.tensor([1.0, 0.0, 2.0, 0.0, 4.0]), batch.mask))
    prepared = replace(zoo.get("optimizer", "reward-to-go")(), gamma=0.5).prepare(batch)
    expected = torch.tensor([[0.0, -0.125, -1.25, 0.0], [0.0, 0.125, 1.25, 0.0]])
    torch.testing.assert_close(prepared.advantages, expected)


def test_parts_with_a_memory_keep_the_contract(zoo: Registry) -> None:
    check_sampler(zoo.get("sampler", "curriculum")())
    check_reward(zoo.get("reward", "brevity")())


def test_a_curriculum_asks_for_what_is_sometimes_solved(zoo: Registry) -> None:
    sampler = zoo.get("sampler", "curriculum")(floor=0.05, rates=((0, 0.0), (2, 1.0), (3, 0.5)))
    prompts = [Prompt(str(i)) for i in range(4)]
    # p(1-p) + 0.05: 0.05, 0.30 (not asked yet: 0.5), 0.05, 0.30; of 0.70, the middling two have 6/7 = 0.857
    drawn = sampler.choose(prompts, 4000, seed=1)
    assert sum(i in (1, 3) for i in drawn) / 4000 == pytest.approx(6 / 7, abs=0.03)

    def group(index: int, *values: float) -> Group:
        completions = tuple(Completion((1,), "") for _ in values)
        return Group(Prompt("", index=index), (1,), completions, tuple(map(alignzoo.Score, values)))

    # 0: three of four solved, 0 + 0.5·0.75; 1: none, 0.5 - 0.5·0.5; 3: both, 0.5 + 0.5·0.5
    later = sampler.next(StepReport(1, 9, {}, (group(0, 1, 1, 0, 1), group(1, 0, 0.4), group(3, 1, 0.5))))
    assert later.rates == ((0, 0.375), (1, 0.25), (2, 1.0), (3, 0.75))


def test_a_limit_falls_with_the_steps(zoo: Registry) -> None:
    reward = zoo.get("reward", "brevity")(first=12, last=6, steps=3)
    limits = [reward.limit]
    for step in (1, 2, 3, 4):
        reward = reward.next(StepReport(step, 9, {}))
        limits.append(reward.limit)
    assert limits == [12, 10, 8, 6, 6]


def test_each_reward_is_standardised_by_itself_and_then_the_batch(zoo: Registry) -> None:
    # Two groups of two. "right" (weight 1): 0, 100 | 1, 1 and "short" (weight 0.5): 3, 1 | abstains, 2.
    # In its group each is ±1/√2 = ±0.707107 (sd of two is |a-b|/√2), whatever its size; a tie, or a row alone, is 0:
    # sums: -0.707107 + 0.353553 = -0.353553, 0.353553, 0, 0; their sd is √(2·0.125/3) = 0.288675
    # so ±0.353553/0.288675 = ±1.224745, 0, 0
    nan = float("nan")
    batch = replace(
        toy_batch([1, 1, 1, 1], group=[0, 0, 1, 1], rewards=[1.5, 100.5, 1.0, 2.0]),
        sources={"right": torch.tensor([0.0, 100.0, 1.0, 1.0]), "short": torch.tensor([3.0, 1.0, nan, 2.0])},
        source_weights={"right": 1.0, "short": 0.5},
    )
    prepared = zoo.get("optimizer", "gdpo")().prepare(batch)
    expected = torch.tensor([-1.224745, 1.224745, 0.0, 0.0])
    torch.testing.assert_close(prepared.advantages, expected, rtol=1e-3, atol=1e-6)  # ε = 1e-4 beside 0.29


def test_a_reward_sees_what_each_token_is(zoo: Registry) -> None:
    class Speaks:
        def info(self) -> PolicyInfo:
            return PolicyInfo(token_strings=self._spelled)

        def _spelled(self, tokens: Any) -> list[str]:
            return [" " + "=bacx"[token] if token < 5 else "<end>" for token in tokens]

    completions = [Completion(tokens, "") for tokens in ((0, 2, 1, 3, 9), (0, 1, 2, 3, 9), (0, 2))]
    group = Group(Prompt("", info={"answer": "= a b c"}), (1,), tuple(completions))
    (scores,) = zoo.get("reward", "placed")().score([group], Speaks())
    assert [s.tokens for s in scores] == [(1, 1, 1, 1, 0), (1, 0, 0, 1, 0), (1, 1)]
    assert [s.value for s in scores] == [1.0, 0.0, 0.0]


def test_an_environment_keeps_a_samplers_contract(zoo: Registry) -> None:
    check_sampler(zoo.get("sampler", "two-turns")(n=2))


def test_a_turn_goes_on_from_the_tokens_that_there_are(zoo: Registry) -> None:
    policy = toy_policy()
    sampler = zoo.get("sampler", "two-turns")(n=20, key="1")  # the word for the end, so that some questions have it
    (group,) = sampler.sample([Prompt("what?")], policy, seeds=[3])
    (tool,) = policy.encode(Prompt(""), ["?"]).completions
    for completion, score in zip(group.completions, group.scores or (), strict=True):
        first, heard, second = completion.turns
        assert first == 0 and completion.own == (True,) * heard + (False,) + (True,) * (len(completion.tokens) - second)
        assert completion.tokens[heard:second] == tool.tokens[:-1] or "[7]" in completion.text
        assert score.parts["asked"] == ("[7]" in completion.text) == (1 in completion.tokens[:heard])
    assert {score.parts["asked"] for score in group.scores or ()} == {0.0, 1.0}


METHODS = [GRPO(), PPO(epochs=2, kl=0.0)]


@pytest.mark.parametrize("optimizer", METHODS, ids=["grpo", "ppo"])
def test_methods_learn_from_an_environment_as_they_are(zoo: Registry, optimizer: Any, tmp_path: Path) -> None:
    sampler = zoo.get("sampler", "two-turns")(n=8)
    found = train(toy_policy(), optimizer, tmp_path / "run", sampler=sampler, steps=20, lr=0.05, samples_every=0)
    rewards = [line["reward/mean"] for line in found["metrics"]]
    assert sum(rewards[:3]) / 3 < 0.15 and sum(rewards[-3:]) / 3 > 0.35


@pytest.mark.parametrize("optimizer", METHODS, ids=["grpo", "ppo"])
def test_a_run_in_an_environment_that_was_stopped_goes_on(zoo: Registry, optimizer: Any) -> None:
    resumes("state outside of the fields", optimizer, zoo.get("sampler", "two-turns")(n=2), toy_prompts())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptive-kl", "reward-to-go"])
def test_it_learns(zoo: Registry, name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "schedule": {"steps": 20},
        "evaluate": {"prompts": 128, "best_of": 0, "greedy": False},
        "policy": {"critic_lr": 2.0},
    }
    settings |= {"reward": {"name": "placed"}} if name == "reward-to-go" else {"optimizer": {"epochs": 2}}
    result = alignzoo.run(name, task="sort", registry=zoo, out=tmp_path / "run", **settings)
    assert 0.2 <= result.before["gold"] <= 0.45
    assert result.after["gold"] >= result.before["gold"] + 0.15
    if name == "adaptive-kl":
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        moved = sum(line["approx_kl"] for line in lines[10:]) / len(lines[10:])
        assert 0.003 < moved < 0.03  # the target is 0.01


@pytest.mark.slow
def test_several_rewards_reach_the_algorithm(zoo: Registry, tmp_path: Path) -> None:
    def sorted_letters(prompts: list[Any], completions: list[Any]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [float(said(c).split()[1:] == sorted(said(p).split()[1:])) for p, c in pairs]

    def marked(prompts: list[Any], completions: list[Any]) -> list[float | None]:  # abstains where 3 letters are asked
        pairs = zip(prompts, completions, strict=True)
        return [None if len(said(p).split()) < 5 else 100.0 * said(c).startswith("=") for p, c in pairs]

    def said(turns: list[dict[str, str]]) -> str:
        return turns[-1]["content"].strip()

    rewards = [{"name": "python", "function": f, "weight": w} for f, w in ((sorted_letters, 1.0), (marked, 0.2))]
    settings: dict[str, Any] = {"evaluate": {"prompts": 64, "best_of": 0, "greedy": False}, "schedule": {"steps": 12}}
    names = "reward/python", "reward/python#2"
    run = alignzoo.run("gdpo", task="sort", reward=rewards, registry=zoo, out=tmp_path / "run", **settings)
    assert run.after["gold"] >= run.before["gold"] + 0.1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line[names[0]] <= 1 and 0 <= line[names[1]] <= 100 for line in lines)
    assert lines[-1][names[1]] > 90  # the mean where it gave something: an abstention is no 0


CUT_AFTER: list[int] = []
"""How many calls of the reward are left, before somebody stops the run."""


def in_order(prompts: list[Any], completions: list[Any]) -> list[float]:
    if CUT_AFTER:
        CUT_AFTER[0] -= 1
        if not CUT_AFTER[0]:
            raise KeyboardInterrupt
    words = [[turns[-1]["content"].split()[1:] for turns in each] for each in (prompts, completions)]
    return [float(answer == sorted(letters)) for letters, answer in zip(*words, strict=True)]


@pytest.mark.slow
def test_a_curriculum_learns_and_goes_on_where_it_was(zoo: Registry, tmp_path: Path) -> None:
    def train(out: Path, resume: bool = False) -> Any:
        settings: dict[str, Any] = {"evaluate": {"prompts": 64, "best_of": 0, "greedy": False}, "reward": in_order}
        settings |= {
            "schedule": {"steps": 12, "save_every": 2, "keep_checkpoints": True},
            "sampler": {"name": "curriculum"},
        }
        return alignzoo.run("grpo", task="sort", out=out, resume=resume, registry=zoo, **settings)

    result = train(tmp_path / "whole")
    assert result.after["gold"] >= result.before["gold"] + 0.1
    CUT_AFTER[:] = [1 + 5 + 1]  # the evaluation before, five steps, and the sixth
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    CUT_AFTER.clear()
    train(tmp_path / "cut", resume=True)
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    state = json.loads((tmp_path / "whole/checkpoints/grpo/step-000012/state.json").read_text())
    assert len(state["sampler"]["rates"]) > 100  # 12 steps of 12 prompts, some of them twice


@pytest.mark.slow
def test_a_reward_that_changes_with_the_steps_is_followed(zoo: Registry, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluate": {"prompts": 64, "best_of": 0, "greedy": False}, "schedule": {"steps": 12}}
    limits = {"name": "brevity", "first": 6, "last": 2, "steps": 8}
    result = alignzoo.run("grpo", task="sort", reward=limits, registry=zoo, out=tmp_path / "run", **settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["reward/brevity/limit"] for line in lines] == [6, 5.5, 5, 4.5, 4, 3.5, 3, 2.5, 2, 2, 2, 2]
    assert result.after["length"] < result.before["length"] - 0.5
