"""Methods with limits and several objectives: figures reckoned by hand, and what they are where nothing is limited."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import Batch, PluginError, StepReport
from alignzoo_policy_gradient import limits
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.lagrangian_grpo import LagrangianGRPO
from alignzoo_policy_gradient.lagrangian_ppo import LagrangianPPO
from alignzoo_policy_gradient.max_min import MaxMin
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.repo import RePO
from alignzoo_preference.dpo import DPO
from alignzoo_preference.modpo import MODPO
from objectives import answers, logistic, objective

HELPFUL, HARM = [1.0, 3.0, 2.0, 0.0], [0.0, 1.0, 2.0, 0.5]
SAID: dict[str, Any] = {"logprobs": [-1.0, -1.2, -0.9, -1.1], "old_logprobs": [-1.0] * 4}
CRITIC: dict[str, Any] = {"values": [0.1] * 4, "old_values": [0.1] * 4, "entropy": [0.0] * 4}


def judged(helpful: list[float], harm: list[float]) -> Batch:
    """One group with two rewards, of which the second is given the weight 0."""
    sources = {"helpful": torch.tensor(helpful), "harm": torch.tensor(harm)}
    return replace(answers(helpful), sources=sources, source_weights={"helpful": 1.0, "harm": 0.0})


def grpo(**settings: Any) -> Any:
    return objective(LagrangianGRPO(kl=0.0, **settings), judged(HELPFUL, HARM), **SAID)


def test_with_a_multiplier_of_0_it_is_grpo() -> None:
    plain = objective(GRPO(kl=0.0, reduction="token"), judged(HELPFUL, HARM), **SAID)
    found = grpo(cost="harm", multiplier=0.0)
    assert found.loss == pytest.approx(plain.loss)
    torch.testing.assert_close(found.gradient["logprobs"], plain.gradient["logprobs"])


def test_with_a_large_multiplier_it_lowers_the_cost_alone() -> None:
    lower = objective(GRPO(kl=0.0, reduction="token"), judged([-cost for cost in HARM], HARM), **SAID)
    found = grpo(cost="harm", multiplier=1e6)
    torch.testing.assert_close(found.prepared.advantages, lower.prepared.advantages, rtol=1e-3, atol=1e-3)


def test_the_mixture_of_reward_and_excess() -> None:
    part = LagrangianGRPO(cost="harm", limit=0.5, multiplier=3.0)
    batch, rewards = part.constrained(judged(HELPFUL, HARM))
    # (r - 3·(c - 0.5))/4: (1 + 1.5)/4, (3 - 1.5)/4, (2 - 4.5)/4, 0/4
    assert rewards.tolist() == pytest.approx([0.625, 0.375, -0.625, 0.0])
    assert batch.extra["excess"].tolist() == pytest.approx([-0.5, 0.5, 1.5, 0.0])
    # rectified, an answer within its limit keeps its reward: 1/4, (3 - 1.5)/4, (2 - 4.5)/4, 0/4
    assert RePO(cost="harm", limit=0.5, multiplier=3.0).constrained(batch)[1].tolist() == pytest.approx(
        [0.25, 0.375, -0.625, 0.0]
    )


def test_a_cost_that_weighs_in_the_run_is_taken_out_of_its_reward_first() -> None:
    weighed = judged(HELPFUL, HARM)
    mixed = torch.tensor(HELPFUL) - 2 * torch.tensor(HARM)
    weighed = replace(weighed, rewards=mixed, source_weights={"helpful": 1.0, "harm": -2.0})
    part = LagrangianGRPO(cost="harm", limit=0.5, multiplier=3.0)
    torch.testing.assert_close(part.constrained(weighed)[1], part.constrained(judged(HELPFUL, HARM))[1])


def test_an_answer_whose_cost_is_not_known_is_left_out() -> None:
    batch, rewards = LagrangianGRPO(cost="harm").constrained(judged(HELPFUL, [0.0, math.nan, 2.0, 0.5]))
    assert len(batch) == len(rewards) == 3 and not rewards.isnan().any()


def test_a_reward_that_the_run_does_not_have_is_told() -> None:
    with pytest.raises(PluginError, match=r"no reward 'ham', it has: harm, helpful"):
        LagrangianGRPO(cost="ham").constrained(judged(HELPFUL, HARM))


@pytest.mark.parametrize("part", [LagrangianGRPO(cost="harm"), LagrangianPPO(cost="harm"), RePO(cost="harm")])
def test_the_multiplier_grows_above_the_limit_and_falls_below(part: Any) -> None:
    over, under = (part.next(StepReport(1, 9, {"excess": excess})) for excess in (0.4, -0.4))
    assert over.multiplier == pytest.approx(math.exp(0.1 * 0.4))  # ln λ + 0.1·1·0.4
    assert under.multiplier == pytest.approx(math.exp(-0.1 * 0.4))
    assert part.next(StepReport(1, 9, {})) == part
    assert replace(part, multiplier=5.0).next(StepReport(1, 9, {"excess": 9.0})).multiplier == part.largest


def test_ppo_without_a_multiplier_is_ppo() -> None:
    batch = judged(HELPFUL, HARM)
    found, plain = (
        objective(part, batch, **SAID, **CRITIC) for part in (LagrangianPPO(kl=0.0, multiplier=0.0), PPO(kl=0.0))
    )
    assert found.loss == pytest.approx(plain.loss)


def test_max_min_raises_the_lowest_reward() -> None:
    # means 1.5 and 0.875: the second counts
    found = objective(MaxMin(), judged(HELPFUL, HARM), **SAID)
    lower = objective(GRPO(kl=0.0, reduction="token"), judged(HARM, HARM), **SAID)
    assert found.prepared.advantages.tolist() == pytest.approx(lower.prepared.advantages.tolist())
    # one that says the same of all answers is passed over
    found = objective(MaxMin(), judged(HELPFUL, [-1.0] * 4), **SAID)
    higher = objective(GRPO(kl=0.0, reduction="token"), judged(HELPFUL, HARM), **SAID)
    assert found.prepared.advantages.tolist() == pytest.approx(higher.prepared.advantages.tolist())


PAIR: dict[str, Any] = {"logprobs": [-1.0, -2.0], "ref_logprobs": [-1.5, -1.0]}  # log-ratios of 0.5 and -1


def test_modpo_asks_for_a_margin_by_the_other_rewards() -> None:
    batch = judged([1.0, 0.0], [0.2, 0.8])
    found = objective(MODPO(beta=0.5, others=("harm",), weights=(0.25,)), batch, **PAIR)
    # (0.5·1.5 - 0.25·(0.2 - 0.8))/0.75 = (0.75 + 0.15)/0.75
    assert found.loss == pytest.approx(logistic(1.2))
    same = objective(MODPO(beta=0.5), batch, **PAIR)
    plain = objective(DPO(beta=0.5), batch, **PAIR)
    assert same.loss == pytest.approx(plain.loss) == pytest.approx(logistic(0.75))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"others": ("a",), "weights": (0.5, 0.2)}, "weights has 2 numbers for 1 others"),
        ({"others": ("a",), "weights": (1.0,)}, "leave nothing of 1"),
    ],
)
def test_weights_that_make_no_sense_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MODPO(**settings)


def test_one_reward_alone_sets_no_limit_and_this_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    limits._tell_that_nothing_is_limited.cache_clear()
    batch = answers([1.0, 0.0])
    with caplog.at_level("WARNING"):
        for _ in range(2):
            found, rewards = LagrangianGRPO().constrained(batch)
    assert rewards.tolist() == [1.0, 0.0] and found.extra["excess"].tolist() == [0.0, 0.0]
    assert [record.message.startswith("there is one reward, and so no cost") for record in caplog.records] == [True]
