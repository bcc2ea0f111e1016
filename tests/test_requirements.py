"""What parts require of one another is checked when a recipe is read, or its data are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo import Completion, DataError, Group, PluginError, Prompt, RecipeError, RewardError
from alignzoo.data import Data
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.requirements import brings_scores, from_data, generated_per_prompt, scores_generated
from alignzoo.rewards import LARGEST, WeightedReward, score
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.traits import traits_of
from alignzoo_imitation.sft import SFT
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_preference.dpo import DPO
from alignzoo_rules import Labels, Length, Python
from alignzoo_samplers import DatasetSampler, PolicySampler

POLICY = 'sampler={name="policy", n=4}'


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = Registry()
    found.load_all()
    return found


def refused(registry: Registry, recipe: str, *overrides: Any) -> str:
    with pytest.raises(RecipeError) as error:
        load(recipe, list(overrides), registry=registry)
    return str(error.value)


def test_what_parts_declare() -> None:
    assert [traits_of(each).completions for each in (SFT(), DPO(), GRPO)] == [1, 2, 2]
    assert [scores_generated(each) for each in (Labels(), Length())] == [False, True]
    assert [from_data(each) for each in (DatasetSampler(), PolicySampler())] == [True, False]
    assert not brings_scores(PolicySampler())
    assert [generated_per_prompt(each) for each in (DatasetSampler(), PolicySampler(n=3))] == [None, 3]

    class Wrong:
        scores_generated = 1

    with pytest.raises(PluginError, match="Wrong"):
        scores_generated(Wrong())


def test_labels_cannot_score_what_a_policy_generates(registry: Registry) -> None:
    said = refused(registry, "dpo", POLICY)
    assert "dpo.reward: 'labels' scores only answers that come with the data" in said
    assert "'policy' generates new ones" in said and "reward=task (that of its task), or reward=... Known: " in said
    assert "labels" not in said.partition("Known: ")[2]
    assert "'labels' scores only" in refused(registry, "grpo", 'reward=["labels", "length"]')
    assert "reward=task" not in refused(registry, "dpo", POLICY, "data.path=own.jsonl")
    assert load("sl-cai", registry=registry).stages[0].sampler.online  # revisions come with their scores


def test_the_tasks_reward_by_its_stand_in(registry: Registry) -> None:
    [stage] = load("dpo", [POLICY, "reward=task", "task=sort"], registry=registry).stages
    [grpo] = load("grpo", ["task=sort"], registry=registry).stages
    assert stage.rewards == grpo.rewards
    assert load("dpo", [POLICY, 'reward=["task", "length"]'], registry=registry).stages[0].rewards[1].name == "length"
    said = refused(registry, "dpo", POLICY, "reward=task", "data.path=own.jsonl")
    assert "override 'reward=task': dpo.reward: 'task' stands for" in said and "data of its own" in said


@pytest.mark.parametrize(
    ("recipe", "overrides"), [("grpo", ["sampler.n=1"]), ("dpo", ["sampler=policy", "reward=task"])]
)
def test_too_few_completions_to_compare(registry: Registry, recipe: str, overrides: list[str]) -> None:
    said = refused(registry, recipe, *overrides)
    assert said.startswith(
        f"override '{overrides[0]}': {recipe}.sampler.n: found 1, but the optimizer '{recipe}' compares"
    )
    assert "set sampler.n=2 or more" in said


def test_one_completion_is_enough_for_others(registry: Registry) -> None:
    for name in ("ppo", "reinforce"):
        assert load(name, ["sampler=policy", "sampler.n=1"], registry=registry).stages[0].sampler.n == 1


ROWS = {
    "demonstrations": [{"prompt": f"say {i}", "completion": f"ok {i}"} for i in range(12)],
    "prompts": [{"prompt": f"say {i}"} for i in range(12)],
}


@pytest.mark.parametrize(
    ("recipe", "rows", "said"),
    [
        ("dpo", "demonstrations", "dpo.data: no row of {} has 2 completions to compare, which 'dpo' needs: give pairs"),
        ("reward-model", "demonstrations", "reward-model.data: no row of {} has 2 completions to compare"),
        ("dpo", "prompts", "dpo.data: no row of {} has 2 completions to compare"),
        ("sft", "prompts", "sft.data: no row of {} has a completion to learn from, which 'sft' needs: give answers"),
    ],
)
def test_data_without_enough_completions(tmp_path: Path, recipe: str, rows: str, said: str) -> None:
    path = tmp_path / f"{rows}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[rows]))
    with pytest.raises(DataError) as error:
        alignzoo.run(
            recipe, policy="no-such-model", data=path, out=tmp_path / "run"
        )  # found before the policy is loaded
    assert str(error.value).startswith(said.format(path))
    assert not (tmp_path / "run" / "models").exists()


def test_rows_without_enough_completions_are_told(tmp_path: Path, plain_model: Path) -> None:
    rows = [Prompt(f"p {i}", ("yes", "no")[: 1 + i % 2], (1.0, 0.0)[: 1 + i % 2]) for i in range(40)]
    settings: Any = {"evaluate": {"prompts": 0}, "schedule": {"steps": 1, "prompts": 16}}
    with pytest.warns(UserWarning, match=r"dpo: \d+ of \d+ rows of the given rows have fewer than 2 completions"):
        alignzoo.run("dpo", policy=str(plain_model), data=rows, out=tmp_path / "run", **settings)


# --- numbers --------------------------------------------------------------------------------------------------------

NUMBERS = ["schedule.lr", "schedule.warmup", "schedule.epochs", "schedule.weight_decay", "schedule.budget_seconds"]
NUMBERS += ["schedule.budget_tokens", "schedule.reward_stop", "schedule.kl_stop", "policy.temperature", "optimizer.kl"]


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e400"])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_are_finite(registry: Registry, key: str, value: str) -> None:
    said = refused(registry, "grpo", f"{key}={value}")
    assert said.startswith(f"override '{key}={value}': grpo.{key}: found ") and "allowed: a number" in said
    assert f"grpo.{key}: found" in refused(registry, "grpo", (key, float(value)))


def test_so_are_weights_and_betas(registry: Registry) -> None:
    for value in ("nan", "inf"):
        assert "grpo.reward.weight: found" in refused(registry, "grpo", "reward=length", f"reward.weight={value}")
    for betas in ("[2.0, 3.0]", "[nan, nan]", "[-0.1, 0.9]", "[0.9, 1.0]"):
        assert "at least 0 and below 1" in refused(registry, "grpo", f"schedule.betas={betas}")


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("schedule", Schedule(lr=math.inf)),
        ("schedule", Schedule(betas=(2.0, 3.0))),
        ("evaluate", Evaluation(n=0)),
        ("data", Data("rows.jsonl", heldout=math.nan)),
        ("optimizer", GRPO(kl=math.nan)),
    ],
)
def test_ready_made_settings_are_checked_too(registry: Registry, key: str, part: Any) -> None:
    assert f"override '{key}': grpo.{key}." in refused(registry, "grpo", (key, part), "reward=length")


def test_ready_made_settings_that_are_right(registry: Registry) -> None:
    [stage] = load("grpo", [("schedule", Schedule()), ("optimizer", GRPO())], registry=registry).stages
    assert (stage.schedule, stage.optimizer) == (Schedule(), GRPO())


@pytest.mark.parametrize("value", [1e39, -1e39, math.nan, math.inf, 1e16])
def test_a_reward_beyond_float32_is_the_rewards_error(value: float) -> None:
    with pytest.raises(RewardError, match=r"the reward 'mine' gave .* a finite number of at most 1e\+15"):
        scored(value)


def test_so_are_weighted_rewards_that_add_up_to_too_much() -> None:
    assert scored(LARGEST)[0].value == LARGEST
    with pytest.raises(RewardError, match=r"weighted rewards 2·1e\+15 add up to 2e\+15"):
        scored(LARGEST, 2.0)


def scored(value: float, weight: float = 1.0) -> Any:
    """The scores of one completion by a reward that gives it this value."""
    group: Any = Group(Prompt("ask"), (1,), (Completion((2,), "yes"),))
    policy: Any = None
    (found,) = score([group], [WeightedReward("mine", Python(lambda completions: [value]), weight)], policy)
    return found.scores
