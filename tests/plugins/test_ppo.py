"""PPO against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import Batch, Forward, StepReport
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.ppo import PPO

PLAIN = PPO(kl=0.0, whiten_advantages=False)


def filled(lengths: list[int], rewards: list[float], old: list[float], ref: list[float], values: list[float]) -> Batch:
    batch = toy_batch(lengths, group=list(range(len(lengths))), rewards=rewards)
    columns: Any = {"old_logprobs": old, "ref_logprobs": ref, "old_values": values}
    columns = {name: fn.scatter(torch.tensor(column), batch.mask) for name, column in columns.items()}
    return replace(batch, **columns)


def forward(batch: Batch, logprobs: list[float], values: list[float]) -> Forward:
    columns = [fn.scatter(torch.tensor(column), batch.mask) for column in (logprobs, values)]
    return Forward(logprobs=columns[0], entropy=torch.zeros_like(columns[0]), values=columns[1])


def test_the_worked_example() -> None:
    optimizer = replace(PLAIN, gamma=0.9, value_weight=0.0)
    old, new = math.log(0.60), math.log(0.75)
    batch = optimizer.prepare(filled([1], [5.0], [old], [old], [1.5]))
    # one token: A = r + γ·0 - V = 5 - 1.5
    assert batch.advantages[0, 1] == pytest.approx(3.5)
    # ρ = 0.75 / 0.60 = 1.25, clipped to 1.2: min(1.25·3.5, 1.2·3.5) = min(4.375, 4.2) = 4.2
    terms = optimizer.loss(batch, forward(batch, [new], [1.5]))
    assert terms.loss[0, 1] == pytest.approx(-4.2)
    assert terms.metrics["clip_fraction"][0, 1] == 1


def test_gae_over_three_tokens() -> None:
    # γ = 0.9, λ = 0.5, V = (1, 2, 3), reward 4 at the end
    # δ3 = 4 - 3 = 1;  δ2 = 0.9·3 - 2 = 0.7;  δ1 = 0.9·2 - 1 = 0.8
    # A3 = 1;  A2 = 0.7 + 0.45·1 = 1.15;  A1 = 0.8 + 0.45·1.15 = 1.3175;  R = A + V
    optimizer = replace(PLAIN, gamma=0.9, lam=0.5)
    batch = optimizer.prepare(filled([3], [4.0], [-1.0] * 3, [-1.0] * 3, [1.0, 2.0, 3.0]))
    assert batch.advantages[0].tolist() == pytest.approx([0.0, 1.3175, 1.15, 1.0], rel=1e-4)
    assert batch.returns[0].tolist() == pytest.approx([0.0, 2.3175, 3.15, 4.0], rel=1e-4)


def test_the_kl_is_paid_per_token() -> None:
    # r = -0.5·(old - ref): -0.5·0.2 = -0.1, then 1 - 0.5·(-0.4) = 1.2; γ = λ = 1, V = 0: A = (1.1, 1.2)
    optimizer = replace(PLAIN, kl=0.5, lam=1.0)
    batch = optimizer.prepare(filled([2], [1.0], [-1.0, -1.4], [-1.2, -1.0], [0.0, 0.0]))
    assert batch.advantages[0].tolist() == pytest.approx([0.0, 1.1, 1.2], rel=1e-4)


def test_dense_rewards_are_added_where_they_are() -> None:
    batch = filled([2], [1.0], [-1.0] * 2, [-1.0] * 2, [0.0] * 2)
    batch = replace(batch, token_rewards=fn.scatter(torch.tensor([0.25, 0.5]), batch.mask))
    # γ = λ = 1: A2 = 1 + 0.5, A1 = 0.25 + 1.5
    assert replace(PLAIN, lam=1.0).prepare(batch).advantages[0].tolist() == pytest.approx([0.0, 1.75, 1.5])


def test_advantages_are_whitened_over_the_step() -> None:
    # one-token completions, V = 0: A = (3, 1, 2): mean 2, variance (1 + 1 + 0) / 2 = 1
    optimizer = replace(PLAIN, whiten_advantages=True)
    batch = optimizer.prepare(filled([1] * 3, [3.0, 1.0, 2.0], [-1.0] * 3, [-1.0] * 3, [0.0] * 3))
    assert batch.advantages[:, 1].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-4)
    assert batch.returns[:, 1].tolist() == [3.0, 1.0, 2.0]


def test_rewards_are_whitened_without_shifting_their_mean() -> None:
    # rewards (3, 1, 2) have sd 1 and stay; (6, 2, 4) have mean 4 and sd 2: (6-4)/2 + 4 = 5, 3, 4
    optimizer = replace(PLAIN, whiten_rewards=True)
    batch = optimizer.prepare(filled([1] * 3, [6.0, 2.0, 4.0], [-1.0] * 3, [-1.0] * 3, [0.0] * 3))
    assert batch.advantages[:, 1].tolist() == pytest.approx([5.0, 3.0, 4.0], rel=1e-4)


def test_the_clipped_value_loss() -> None:
    # V_old = 1, R = 3 (reward 3); V = 2.5 may count as at most 1.2: ½·max(0.5², 1.8²) = 1.62, times 0.1
    batch = PLAIN.prepare(filled([1], [3.0], [-1.0], [-1.0], [1.0]))
    terms = PLAIN.loss(batch, forward(batch, [-1.0], [2.5]))
    assert terms.metrics["loss/value"][0, 1] == pytest.approx(1.62)
    assert terms.metrics["loss/policy"][0, 1] == pytest.approx(-2.0)  # ρ = 1, A = 3 - 1
    assert terms.loss[0, 1] == pytest.approx(-2.0 + 0.162)


def test_the_objective_is_a_mean_over_tokens_less_the_entropy_bonus() -> None:
    # V = 0, ρ = 1, value_weight 0: tokens cost -A = (-2 | -1, -1) with λ = 1; entropies (0.5 | 1, 1.5), weight 0.1
    # (-4 - 0.1·3) / 3 = -1.433333
    optimizer = replace(PLAIN, lam=1.0, value_weight=0.0, entropy=0.1)
    batch = optimizer.prepare(filled([1, 2], [2.0, 1.0], [-1.0] * 3, [-1.0] * 3, [0.0] * 3))
    out = replace(forward(batch, [-1.0] * 3, [0.0] * 3), entropy=fn.scatter(torch.tensor([0.5, 1.0, 1.5]), batch.mask))
    loss = fn.weigh(optimizer.loss(batch, out).loss, batch.weights, batch.mask) / len(batch)
    assert loss == pytest.approx(-1.433333, rel=1e-4)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.6, 0.0505),  # error 6.6 / 6 - 1 = 0.1: 0.05·(1 + 0.1·64/640)
        (60.0, 0.051),  # error bounded at 0.2: 0.05·(1 + 0.2·0.1)
        (0.0, 0.049),  # and at -0.2
        (6.0, 0.05),
    ],
)
def test_the_adaptive_coefficient(kl: float, expected: float) -> None:
    optimizer = PPO(kl=0.05, kl_target=6.0, kl_horizon=640.0)
    successor = optimizer.next(StepReport(1, 10, {"kl": kl, "completions": 64.0}))
    assert successor.kl == pytest.approx(expected)
    assert replace(successor, kl=0.05) == optimizer


def test_without_a_target_the_coefficient_stays() -> None:
    assert PPO().next(StepReport(1, 10, {"kl": 9.0, "completions": 64.0})) == PPO()


def test_rows_are_independent_after_prepare() -> None:
    batch = filled([1, 1], [1.0, 2.0], [-1.0] * 2, [-1.0] * 2, [0.0] * 2)
    together, apart = (PLAIN.prepare(replace(batch, group=torch.tensor(group))) for group in ([0, 0], [0, 1]))
    assert PLAIN.couples == "row"
    for column in ("advantages", "returns", "weights"):
        assert torch.equal(getattr(together, column), getattr(apart, column))
