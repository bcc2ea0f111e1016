"""REINFORCE against numbers computed by hand, and its baseline through a run that is stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignzoo import Batch, Forward, StepReport
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.reinforce import REINFORCE


def prepared(optimizer: REINFORCE, rewards: list[float], old: list[float], ref: list[float]) -> Batch:
    batch = toy_batch([1] * len(rewards), group=list(range(len(rewards))), rewards=rewards)
    old_logprobs, ref_logprobs = (fn.scatter(torch.tensor(column), batch.mask) for column in (old, ref))
    return optimizer.prepare(replace(batch, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs))


def after(optimizer: REINFORCE, *means: float, kl: float = 0.0) -> REINFORCE:
    for step, mean in enumerate(means, 1):
        optimizer = optimizer.next(StepReport(step, 10, {"reward/mean": mean, "kl": kl}))
    return optimizer


def test_the_first_step_takes_its_own_mean() -> None:
    # β = 0.5, old - ref = 0.4 for the first: R = 3 - 0.2 = 2.8 and 1: mean 1.9
    batch = prepared(REINFORCE(kl=0.5), [3.0, 1.0], [-1.0, -1.0], [-1.4, -1.0])
    assert batch.advantages.tolist() == pytest.approx([0.9, -0.9])


def test_later_steps_take_the_baseline() -> None:
    batch = prepared(REINFORCE(baseline=2.0, weight=1.0), [3.0, 1.5], [-1.0] * 2, [-1.0] * 2)
    assert batch.advantages.tolist() == pytest.approx([1.0, -0.5])


def test_the_baseline_forgets() -> None:
    # λ = 0.5: weights of 4, 2, 1 from the newest on: (6·4 + 2·2 + 1·1) / 7 = 29/7, standing for 1.75 steps
    optimizer = after(REINFORCE(decay=0.5), 1.0, 2.0, 6.0)
    assert (optimizer.baseline, optimizer.weight) == pytest.approx((29 / 7, 1.75))
    assert after(REINFORCE(decay=1.0), 1.0, 2.0, 6.0).baseline == pytest.approx(3.0)
    assert after(REINFORCE(decay=0.0), 1.0, 2.0, 6.0).baseline == pytest.approx(6.0)


def test_the_baseline_is_of_the_reward_less_the_kl() -> None:
    assert after(REINFORCE(kl=0.1), 1.0, kl=2.0).baseline == pytest.approx(0.8)


def test_a_step_without_any_score_changes_nothing() -> None:
    optimizer = REINFORCE(baseline=2.0, weight=1.0)
    assert optimizer.next(StepReport(1, 10, {"completions": 4.0})) == optimizer


def test_the_loss_and_its_gradient() -> None:
    # -A·log π per token: -1·-0.5 and 0.5·-2; the gradient is -A
    batch = prepared(REINFORCE(baseline=2.0, weight=1.0), [3.0, 1.5], [-1.0] * 2, [-1.0] * 2)
    logprobs = fn.scatter(torch.tensor([-0.5, -2.0]), batch.mask).requires_grad_(True)
    terms = REINFORCE().loss(batch, Forward(logprobs=logprobs))
    assert terms.loss[:, 1].tolist() == pytest.approx([0.5, -1.0])
    (gradient,) = torch.autograd.grad(fn.weigh(terms.loss, batch.weights, batch.mask), [logprobs])
    assert gradient[:, 1].tolist() == pytest.approx([-1.0, 0.5])
