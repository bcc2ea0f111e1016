"""SFT: the best completion of each group, averaged over tokens."""

from __future__ import annotations

import pytest
import torch

from alignzoo import Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_imitation.sft import SFT


def test_a_pair_teaches_its_better_completion_only() -> None:
    batch = toy_batch([2, 3], group=[0, 0], rewards=[0.0, 1.0])
    chosen = SFT().prepare(batch)
    assert chosen.rewards.tolist() == [1.0]
    assert chosen.mask.sum() == 3


def test_the_loss_is_the_mean_over_all_tokens() -> None:
    batch = SFT().prepare(toy_batch([1, 3], group=[0, 1], rewards=[1.0, 1.0]))
    out = Forward(logprobs=fn.scatter(torch.tensor([-2.0, -0.5, -1.0, -1.5]), batch.mask))
    terms = SFT().loss(batch, out)
    # (2 + 0.5 + 1 + 1.5) / 4 tokens = 1.25; the mean of the rows' means would be (2 + 1) / 2 = 1.5
    assert fn.weigh(terms.loss, batch.weights, batch.mask) / len(batch) == pytest.approx(1.25)
    assert terms.metrics["nll"].sum(1).tolist() == [2.0, 3.0]


def test_of_equals_the_first_is_taken() -> None:
    batch = toy_batch([1, 2, 3], group=[0, 0, 0], rewards=[0.5, 2.0, 2.0])
    assert SFT().prepare(batch).mask.sum() == 2


def test_the_prompt_is_not_learned() -> None:
    batch = SFT().prepare(toy_batch([2], group=[0], rewards=[1.0]))
    assert batch.weights[0, 0] == 0
