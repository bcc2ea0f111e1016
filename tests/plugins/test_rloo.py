"""RLOO against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.rloo import RLOO


def prepared(optimizer: RLOO, lengths: list[int], rewards: list[float], old: list[float], ref: list[float]) -> Batch:
    batch = toy_batch(lengths, group=[0] * len(lengths), rewards=rewards)
    old_logprobs, ref_logprobs = (fn.scatter(torch.tensor(column), batch.mask) for column in (old, ref))
    return optimizer.prepare(replace(batch, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs))


def objective(optimizer: RLOO, batch: Batch, logprobs: list[float]) -> float:
    terms = optimizer.loss(batch, Forward(logprobs=fn.scatter(torch.tensor(logprobs), batch.mask)))
    return float(fn.weigh(terms.loss, batch.weights, batch.mask) / len(batch))


def test_the_baseline_leaves_the_completion_out() -> None:
    # the others' means: (2+6)/2 = 4, (1+6)/2 = 3.5, (1+2)/2 = 1.5: 1-4, 2-3.5, 6-1.5
    batch = prepared(RLOO(), [1, 1, 1], [1.0, 2.0, 6.0], [-1.0] * 3, [-1.0] * 3)
    assert batch.advantages.tolist() == pytest.approx([-3.0, -1.5, 4.5])


def test_a_single_completion_has_no_baseline_and_teaches_nothing() -> None:
    assert prepared(RLOO(), [2], [5.0], [-1.0] * 2, [-1.0] * 2).advantages.tolist() == [0.0]


def test_the_kl_of_the_whole_completion_is_in_the_reward() -> None:
    # β = 0.5; sums of old - ref: 0.2 + 0.4 = 0.6 and -0.2: R = 1 - 0.3 = 0.7 and 0 + 0.1 = 0.1
    batch = prepared(RLOO(kl=0.5), [2, 1], [1.0, 0.0], [-1.0, -1.0, -1.0], [-1.2, -1.4, -0.8])
    assert batch.advantages.tolist() == pytest.approx([0.6, -0.6])


def test_the_ratio_is_of_the_whole_completion() -> None:
    # ρ = e^(0.2+0.3) = 1.6487 for the better, cut to 1.2; e^-0.1 = 0.904837 for the worse; A = ±1
    # (-1.2·1 + 0.904837·1) / 2 = -0.1475815
    optimizer = RLOO(kl=0.0)
    batch = prepared(optimizer, [2, 1], [1.0, 0.0], [-1.0] * 3, [-1.0] * 3)
    assert objective(optimizer, batch, [-0.8, -0.7, -1.1]) == pytest.approx(-0.1475815, rel=1e-5)
    # the worse one up to e^0.5 is not cut: (-1·1 + 1.648721) / 2 at a better one that stays
    assert objective(optimizer, batch, [-1.0, -1.0, -0.5]) == pytest.approx(0.3243606, rel=1e-5)


def test_metrics() -> None:
    # ratios e^0.5 = 1.65 and e^-0.1 = 0.90
    batch = prepared(RLOO(), [2, 1], [1.0, 0.0], [-1.0] * 3, [-1.0] * 3)
    out = Forward(logprobs=fn.scatter(torch.tensor([-0.8, -0.7, -1.1]), batch.mask))
    assert RLOO().loss(batch, out).metrics["clip_fraction"].tolist() == [1.0, 0.0]
