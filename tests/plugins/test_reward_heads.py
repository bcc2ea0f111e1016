"""Reward models with several outputs, and on a trunk that goes on generating."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignzoo import Context, DataError, Forward, Group, ModelError, columns, opened
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from alignzoo_hf.reward import ModelReward
from alignzoo_reward_models.attributes import AttributeRewardModel
from alignzoo_reward_models.bradley_terry import RewardModel
from alignzoo_reward_models.generalizable import GeneralizableRewardModel
from alignzoo_reward_models.regression import RegressionRewardModel
from alignzoo_tiny.tasks import Shop
from objectives import answers, logistic, objective

BOTH = {"scores": [0.7, -0.2], "logprobs": [-2.0, -3.0]}
START = Shop().policy


def test_a_generalizable_reward_model_is_bradley_terry_and_the_better_answers_likelihood() -> None:
    found = objective(GeneralizableRewardModel(alpha=0.1, beta=0.5), answers([1.0, 0.0]), **BOTH)
    assert found.loss == pytest.approx(0.9 * logistic(0.9) + 0.1 * logistic(0.5 * -2.0))
    pull = 0.1 * 0.5 / (1 + math.exp(0.5 * -2.0))  # α·β·σ(-β·log π)
    assert found.gradient["logprobs"].tolist() == pytest.approx([-pull, 0.0])
    apart = objective(GeneralizableRewardModel(0.1, 0.5, "contrast"), answers([1.0, 0.0]), **BOTH)
    assert apart.loss == pytest.approx(0.9 * logistic(0.9) + 0.1 * logistic(0.5 * (-2.0 + 3.0)))


def test_without_its_regulariser_it_is_bradley_terry() -> None:
    found = objective(GeneralizableRewardModel(alpha=0.0), answers([1.0, 0.0]), **BOTH)
    plain = objective(RewardModel(), answers([1.0, 0.0]), scores=BOTH["scores"])
    assert found.loss == pytest.approx(plain.loss)
    assert found.gradient["scores"].tolist() == pytest.approx(plain.gradient["scores"].tolist())


def test_each_attribute_has_an_output_of_its_own() -> None:
    optimizer = AttributeRewardModel(("kind", "brief"))
    assert optimizer.needs == {"scores", "scores:1", "scores:2"}
    batch = replace(answers([1.0, 0.0], kind=[2.0, 0.5]), parts={"brief": torch.tensor([0.0, 1.0])})
    out = {"scores": [0.5, 0.25], "scores:1": [1.0, 0.5], "scores:2": [0.1, 0.2]}
    terms = optimizer.loss(optimizer.prepare(batch), Forward.of({n: torch.tensor(v) for n, v in out.items()}))
    # (0.5² + 1² + 0.1²)/3 and (0.25² + 0² + 0.8²)/3
    assert terms.loss.tolist() == pytest.approx([1.26 / 3, 0.7025 / 3])
    assert terms.metrics["error/brief"].tolist() == pytest.approx([0.1, 0.8])
    with pytest.raises(DataError, match=r"no part of a reward is called 'polite'; there are 'brief', 'kind'"):
        AttributeRewardModel(("polite",)).prepare(batch)


def test_without_attributes_it_is_the_regression_on_ratings() -> None:
    one, other = (
        objective(each, answers([1.0, 0.0]), scores=[0.4, -0.3])
        for each in (AttributeRewardModel(()), RegressionRewardModel())
    )
    assert one.loss == pytest.approx(other.loss)
    assert one.gradient["scores"].tolist() == pytest.approx(other.gradient["scores"].tolist())


def test_a_column_of_scores_names_its_output() -> None:
    assert columns.outputs(["scores", "logprobs"]) == 1 and columns.outputs(["scores", "scores:3"]) == 4
    with pytest.raises(ValueError, match="expected a whole number"):
        columns.column("scores:1.5")


def _groups(policy: HFPolicy) -> list[Group]:
    return [policy.encode(each, each.completions) for each in Shop().data("comparisons", "train")[:3]]


@pytest.mark.parametrize("rank", [0, 2])
def test_both_heads_stand_on_one_trunk_and_the_scorer_is_saved(rank: int, tmp_path: Path) -> None:
    policy = HF(START, max_new_tokens=8, lora_rank=rank).load(frozenset({"logprobs", "scores", "scores:1"}))
    torch.manual_seed(0)
    with torch.no_grad():
        policy.scorer.score.weight.normal_(0, 0.1)
    batch = collate(_groups(policy), scored=False)
    asked = frozenset({"logprobs", "scores", "scores:1"})
    joint = policy.forward(batch, asked)
    for name in asked:
        alone = policy.forward(batch, frozenset({name}))[name]
        torch.testing.assert_close(joint[name], alone, rtol=1e-5, atol=1e-5)
    trained = [each for group in policy.parameters() for each in group["params"]]
    assert len(set(map(id, trained))) == len(trained)  # the trunk is there once
    assert [name for name in policy.state() if name.startswith("scorer")] == ["scorer.weight"]
    policy.optimize(lambda groups: torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.01))
    policy.backward(joint.scores.sum() + fn.log_ratio(joint.logprobs, joint.logprobs * 0, batch.mask).sum())
    policy.step(0.01, 1.0)
    after = policy.forward(batch, asked)
    assert (after.logprobs - joint.logprobs).abs().max() > 1e-4
    policy.save(tmp_path / "model")
    saved = HFPolicy(HF(str(tmp_path / "model"), max_new_tokens=1), frozenset({"scores"}), frozen=True)
    for name in ("scores", "scores:1"):
        torch.testing.assert_close(saved.forward(batch, frozenset({name}))[name], after[name], rtol=1e-4, atol=1e-4)


def test_a_reward_weighs_the_outputs_of_its_model(tmp_path: Path) -> None:
    policy = HF(START, max_new_tokens=8).load(frozenset({"scores", "scores:1"}))
    torch.manual_seed(0)
    with torch.no_grad():
        policy.scorer.score.weight.normal_(0, 0.1)
    policy.save(tmp_path / "model")
    groups = _groups(policy)
    apart = [_values(ModelReward(str(tmp_path / "model"), label=i), groups, policy) for i in (0, 1)]
    both = _values(ModelReward(str(tmp_path / "model"), weights=(0.25, 2.0)), groups, policy)
    assert both == pytest.approx([0.25 * one + 2.0 * other for one, other in zip(*apart, strict=True)], abs=1e-5)
    with pytest.raises(ModelError, match=r"3 scores are asked for, but .* has a scoring head of 2"):
        _values(ModelReward(str(tmp_path / "model"), weights=(1.0, 1.0, 1.0)), groups, policy)


def _values(reward: ModelReward, groups: list[Group], policy: HFPolicy) -> list[float]:
    with opened([reward], Context("rm")):
        return [score.value or 0.0 for some in reward.score(groups, policy) for score in some]
