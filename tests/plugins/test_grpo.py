"""GRPO against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.gmpo import GMPO
from alignzoo_policy_gradient.grpo import GRPO


def prepared(optimizer: GRPO, lengths: list[int], rewards: list[float], old: list[float], ref: list[float]) -> Batch:
    batch = toy_batch(lengths, group=[0] * len(lengths), rewards=rewards)
    columns: Any = {"old_logprobs": old, "ref_logprobs": ref}
    columns = {name: fn.scatter(torch.tensor(column), batch.mask) for name, column in columns.items()}
    return optimizer.prepare(replace(batch, **columns))


def objective(optimizer: GRPO, batch: Batch, logprobs: list[float]) -> float:
    terms = optimizer.loss(batch, Forward(logprobs=fn.scatter(torch.tensor(logprobs), batch.mask)))
    return float(fn.weigh(terms.loss, batch.weights, batch.mask) / len(batch))


@pytest.mark.parametrize(
    ("rewards", "scale", "advantages"),
    [
        # mean 0.5, deviations ±0.5, sd = √(4·0.25 / 3) = 0.577350: 0.5 / 0.577450 = 0.865876
        ([1.0, 0.0, 0.0, 1.0], "group", [0.865876, -0.865876, -0.865876, 0.865876]),
        # mean 0.25, sd = √((0.5625 + 3·0.0625) / 3) = 0.5: 0.75 / 0.5001 = 1.4997, -0.25 / 0.5001 = -0.4999
        ([0.0, 1.0, 0.0, 0.0], "group", [-0.4999, 1.4997, -0.4999, -0.4999]),
        ([1.0, 0.0, 0.0, 1.0], "none", [0.5, -0.5, -0.5, 0.5]),
        ([3.0, 3.0], "group", [0.0, 0.0]),
        ([3.0], "group", [0.0]),
    ],
)
def test_advantages(rewards: list[float], scale: Any, advantages: list[float]) -> None:
    batch = toy_batch([1] * len(rewards), group=[0] * len(rewards), rewards=rewards)
    assert GRPO(scale=scale).prepare(batch).advantages.tolist() == pytest.approx(advantages, rel=1e-4)


def test_advantages_scaled_by_the_batch() -> None:
    # rewards (2, 0 | 1, 1): deviations (1, -1 | 0, 0); sd of all four = √((1 + 1 + 0 + 0) / 3) = 0.816497
    batch = toy_batch([1] * 4, group=[0, 0, 1, 1], rewards=[2.0, 0.0, 1.0, 1.0])
    expected = [1.224595, -1.224595, 0.0, 0.0]  # 1 / 0.816597
    assert GRPO(scale="batch").prepare(batch).advantages.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_ratio_is_clipped_above_for_the_better_and_below_for_the_worse() -> None:
    optimizer = GRPO(kl=0.0, scale="none")
    batch = prepared(optimizer, [1, 1], [1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0])
    up, down = -1 + math.log(1.5), -1 + math.log(0.5)
    # better up, worse down: -(1.2·1) and -(0.8·-1): (-1.2 + 0.8) / 2 = -0.2
    assert objective(optimizer, batch, [up, down]) == pytest.approx(-0.2, rel=1e-4)
    # better down, worse up: not clipped, -(0.5·1) and -(1.5·-1): (-0.5 + 1.5) / 2 = 0.5
    assert objective(optimizer, batch, [down, up]) == pytest.approx(0.5, rel=1e-4)
    # clip-higher: better up to 1.28: (-1.28 + 0.8) / 2 = -0.24
    assert objective(replace(optimizer, clip_high=0.28), batch, [up, down]) == pytest.approx(-0.24, rel=1e-4)


@pytest.mark.parametrize("part", [GRPO, GMPO])
def test_without_a_kl_in_the_loss_the_reference_is_not_needed(part: Any) -> None:
    assert "ref_logprobs" in part(kl=0.1).needs and "ref_logprobs" not in part(kl=0.0).needs


def test_the_kl_in_the_loss_and_its_unbiased_variant() -> None:
    # a tied group: no advantage. x = log π/π_ref = log 2: k3 = 1/2 - 1 + 0.693147 = 0.193147, times β = 0.1
    optimizer = GRPO(kl=0.1)
    batch = prepared(optimizer, [1], [1.0], [-1.0 + math.log(2) - math.log(1.1)], [-1.0])
    assert objective(optimizer, batch, [-1.0 + math.log(2)]) == pytest.approx(0.0193147, rel=1e-4)
    # ρ = 1.1: 0.0193147·1.1 = 0.0212462
    unbiased = replace(optimizer, unbiased_kl=True)
    assert objective(unbiased, batch, [-1.0 + math.log(2)]) == pytest.approx(0.0212462, rel=1e-4)


@pytest.mark.parametrize(("reduction", "expected"), [("sequence", 0.0), ("token", 0.25)])
def test_reductions(reduction: Any, expected: float) -> None:
    # at ratio 1 each token costs -A: -0.5 on one token, +0.5 on three.
    # sequence: (-0.5 + 0.5) / 2 rows = 0; token: (-0.5 + 3·0.5) / 4 tokens = 0.25
    optimizer = GRPO(kl=0.0, scale="none", reduction=reduction)
    batch = prepared(optimizer, [1, 3], [1.0, 0.0], [-1.0] * 4, [-1.0] * 4)
    assert objective(optimizer, batch, [-1.0] * 4) == pytest.approx(expected, abs=1e-6)


def test_metrics() -> None:
    optimizer = GRPO()
    batch = prepared(optimizer, [1, 2], [1.0, 0.0], [-1.0] * 3, [-1.0] * 3)
    out = Forward(logprobs=fn.scatter(torch.tensor([-1.0, -0.7, -1.3]), batch.mask))
    # ratios 1, e^0.3 = 1.35, e^-0.3 = 0.74: the last two are beyond 1 ± 0.2
    assert optimizer.loss(batch, out).metrics["clip_fraction"].tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
