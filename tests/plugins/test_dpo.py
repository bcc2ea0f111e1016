"""DPO against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_preference.dpo import DPO


def pair(logprobs: list[float], ref: list[float], optimizer: DPO) -> tuple[Batch, Forward]:
    """A winner of two tokens and a loser of one, the loser first."""
    batch = toy_batch([1, 2], group=[0, 0], rewards=[0.0, 1.0])
    batch = optimizer.prepare(replace(batch, ref_logprobs=fn.scatter(torch.tensor(ref), batch.mask)))
    winner_first = logprobs[1:] + logprobs[:1]
    return batch, Forward(logprobs=fn.scatter(torch.tensor(winner_first), batch.mask))


def test_the_loss_starts_at_ln_2() -> None:
    batch, out = pair([-1.5, -0.7, -0.2], [-1.5, -0.7, -0.2], DPO())
    assert batch.rewards.tolist() == [1.0, 0.0]
    assert DPO().loss(batch, out).loss.tolist() == pytest.approx([math.log(2)] * 2)


def test_a_policy_that_is_its_own_reference_prefers_neither() -> None:
    apart = [-1.5, -0.7, -0.2]
    for ref in (apart, [each * (1 + 2**-23) for each in apart]):  # exactly, and but for rounding
        batch, out = pair(apart, ref, DPO())
        assert DPO().loss(batch, out).metrics["accuracy"].tolist() == [0.5, 0.5]
    batch, out = pair(apart, [-1.4, -0.8, -0.2], DPO())  # the loser is less likely than it was, the winner more
    assert DPO().loss(batch, out).metrics["accuracy"].tolist() == [1.0, 1.0]
    batch, out = pair(apart, [-1.6, -0.6, -0.2], DPO())
    assert DPO().loss(batch, out).metrics["accuracy"].tolist() == [0.0, 0.0]


def test_a_literal() -> None:
    # winner: (-1.0 - 0.5) - (-1.2 - 0.8) = +0.5; loser: -2.0 - (-1.0) = -1.0
    # margin = 0.5·(0.5 + 1.0) = 0.75; -log σ(0.75) = log(1 + e^-0.75) = log 1.472367 = 0.386871
    batch, out = pair([-2.0, -1.0, -0.5], [-1.0, -1.2, -0.8], DPO(beta=0.5))
    terms = DPO(beta=0.5).loss(batch, out)
    assert terms.loss.tolist() == pytest.approx([0.386871] * 2, rel=1e-4)
    assert terms.metrics["margin"].tolist() == pytest.approx([0.75] * 2)
    assert terms.metrics["accuracy"].tolist() == [1.0, 1.0]
    assert float(fn.weigh(terms.loss, batch.weights, batch.mask) / len(batch)) == pytest.approx(0.386871, rel=1e-4)


def test_label_smoothing() -> None:
    # 0.9·0.386871 + 0.1·(-log σ(-0.75)) = 0.348184 + 0.1·(0.386871 + 0.75) = 0.461871
    optimizer = DPO(beta=0.5, label_smoothing=0.1)
    batch, out = pair([-2.0, -1.0, -0.5], [-1.0, -1.2, -0.8], optimizer)
    assert optimizer.loss(batch, out).loss.tolist() == pytest.approx([0.461871] * 2, rel=1e-4)


def test_the_gradient() -> None:
    # d/d logp(winner) of -log σ(β·d) is -β·σ(-β·d): at the start -0.1·0.5 = -0.05 on each token, +0.05 on the loser's
    batch, out = pair([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], DPO(beta=0.1))
    logprobs = out.logprobs.requires_grad_(True)
    (fn.weigh(DPO().loss(batch, Forward(logprobs)).loss, batch.weights, batch.mask) / len(batch)).backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, -0.05, -0.05], [0.0, 0.05, 0.0]]))


def test_a_group_is_its_best_and_its_worst_and_a_tie_is_nothing() -> None:
    batch = toy_batch([1, 2, 3, 1, 2], group=[0, 0, 0, 1, 1], rewards=[0.5, -1.0, 2.0, 1.0, 1.0])
    pairs = DPO().prepare(batch)
    assert pairs.rewards.tolist() == [2.0, -1.0]
    assert pairs.mask.sum(1).tolist() == [3, 2]
