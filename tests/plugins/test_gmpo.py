"""GMPO against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.gmpo import GMPO

# mean 0.5, deviations ±0.5, sd = √(0.5 / 1) = 0.707107: 0.5 / 0.707207
ADVANTAGE = 0.707007


def prepared(optimizer: GMPO, lengths: list[int], ref: float = -1.0) -> Batch:
    """A pair, the first better; the old policy gives each token -1."""
    batch = toy_batch(lengths, group=[0, 0], rewards=[1.0, 0.0])
    return optimizer.prepare(
        replace(batch, old_logprobs=-1.0 * batch.mask.float(), ref_logprobs=ref * batch.mask.float())
    )


def costs(optimizer: GMPO, batch: Batch, logprobs: list[float]) -> list[float]:
    terms = optimizer.loss(batch, Forward(logprobs=fn.scatter(torch.tensor(logprobs), batch.mask)))
    return terms.loss.tolist()


def test_the_mean_is_geometric() -> None:
    # ratios e^0.3 and e^0.1: √(e^0.4) = e^0.2 = 1.221403; e^-0.2 = 0.818731 for the worse
    batch = prepared(GMPO(), [2, 1])
    assert costs(GMPO(), batch, [-0.7, -0.9, -1.2]) == pytest.approx([-ADVANTAGE * 1.221403, ADVANTAGE * 0.818731])


def test_each_token_is_cut_before_the_mean_on_the_side_of_its_advantage() -> None:
    # better: log-ratios (1, -1) become (0.4, -1): e^-0.3 = 0.740818. worse: (1, -1) become (1, -0.4): e^0.3 = 1.349859
    batch = prepared(GMPO(), [2, 2])
    found = costs(GMPO(), batch, [0.0, -2.0, 0.0, -2.0])
    assert found == pytest.approx([-ADVANTAGE * 0.740818, ADVANTAGE * 1.349859], rel=1e-5)


def test_what_is_cut_gets_no_gradient() -> None:
    batch = prepared(GMPO(), [2, 2])
    logprobs = fn.scatter(torch.tensor([0.0, -2.0, 0.0, -2.0]), batch.mask).requires_grad_(True)
    GMPO().loss(batch, Forward(logprobs=logprobs)).loss.sum().backward()
    assert (logprobs.grad[:, 1:] == 0).tolist() == [[True, False], [False, True]]


def test_the_kl_is_a_mean_over_tokens() -> None:
    # x = log π/π_ref = 0.693147 on one of two tokens: k3 = 0.193147, halved; times β = 0.1: 0.00965736
    optimizer = GMPO(kl=0.1)
    batch = prepared(optimizer, [2, 1])
    found = costs(optimizer, batch, [-0.306853, -1.0, -1.0])
    without = costs(GMPO(), batch, [-0.306853, -1.0, -1.0])
    assert [a - b for a, b in zip(found, without, strict=True)] == pytest.approx([0.00965736, 0.0], abs=1e-7)


def test_metrics() -> None:
    batch = prepared(GMPO(), [2, 2])
    out = Forward(logprobs=fn.scatter(torch.tensor([0.0, -2.0, -1.0, -1.0]), batch.mask))
    assert GMPO().loss(batch, out).metrics["clip_fraction"].tolist() == [0.5, 0.0]
