"""BOND against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_distillation.bond import BOND


def prepared(optimizer: BOND, rewards: list[float], lengths: list[int] | None = None, ref: float = -1.0) -> Batch:
    batch = toy_batch(lengths or [1] * len(rewards), group=[0] * len(rewards), rewards=rewards)
    return optimizer.prepare(
        replace(batch, old_logprobs=-1.0 * batch.mask.float(), ref_logprobs=ref * batch.mask.float())
    )


def test_advantages_are_log_quantiles() -> None:
    # shares no larger: 1/4, 3/4, 3/4, 1; times n-1 = 3: 3·log = -4.158883, -0.863046, -0.863046, 0; mean -1.471244
    batch = prepared(BOND(), [0.0, 1.0, 1.0, 9.0])
    assert batch.advantages.tolist() == pytest.approx([-2.687639, 0.608198, 0.608198, 1.471244], rel=1e-5)


def test_only_the_order_of_rewards_counts() -> None:
    small, large = (prepared(BOND(), rewards) for rewards in ([0.0, 0.1, 0.2], [-50.0, 3.0, 1e4]))
    assert torch.equal(small.advantages, large.advantages)
    assert torch.equal(small.extra["best"], large.extra["best"])


def test_the_best_are_imitated_as_often_as_groups_are() -> None:
    assert prepared(BOND(), [0.0, 2.0, 1.0]).extra["best"].tolist() == [0.0, 3.0, 0.0]
    assert prepared(BOND(), [0.0, 2.0, 2.0, 1.0]).extra["best"].tolist() == [0.0, 2.0, 2.0, 0.0]  # equals share it


def test_a_tied_group_has_no_best() -> None:
    assert len(prepared(BOND(), [1.0, 1.0, 1.0])) == 0


def test_the_kl_is_of_the_whole_completion() -> None:
    # log(1/2) and log 1, times n-1 = 1; log π_old/π_ref = 0.5 per token of 2 and 1, γ = 1: -0.693147-1, 0-0.5
    batch = prepared(BOND(kl=1.0), [0.0, 1.0], [2, 1], ref=-1.5)
    assert batch.advantages.tolist() == pytest.approx([-0.5965736, 0.5965736], rel=1e-5)


@pytest.mark.parametrize(("backward", "expected"), [(0.0, 2.0), (1.0, 0.0), (0.5, 1.0)])
def test_the_two_divergences(backward: float, expected: float) -> None:
    # at ratio 1, one token each: forward 2·1 for the best and 0, so 2 in all; backward -A, A = ±0.346574, so 0 in all
    optimizer = BOND(backward=backward)
    batch = prepared(optimizer, [0.0, 1.0])
    terms = optimizer.loss(batch, Forward(logprobs=-1.0 * batch.mask.float()))
    assert float(terms.loss.sum()) == pytest.approx(expected, abs=1e-6)


def test_the_ratio_is_clipped() -> None:
    # the better at ρ = 1.5: cut at 1.2·A; the worse at 0.5: cut at 0.8·A: -(1.2 - 0.8)·0.346574
    optimizer = BOND(backward=1.0)
    batch = prepared(optimizer, [1.0, 0.0])
    out = Forward(logprobs=fn.scatter(torch.tensor([-1 + math.log(1.5), -1 + math.log(0.5)]), batch.mask))
    terms = optimizer.loss(batch, out)
    assert float(terms.loss.sum()) == pytest.approx(-0.4 * 0.3465736, rel=1e-5)
    assert terms.metrics["clip_fraction"].sum() == 2
