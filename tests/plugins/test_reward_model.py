"""The reward model against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_reward_models.bradley_terry import RewardModel

# softplus(-gap) = -log σ(gap): 0.5 -> 0.474077, 1 -> 0.313262, 1.5 -> 0.201413, 0 -> 0.693147


def objective(optimizer: RewardModel, batch: Batch, scores: list[float]) -> float:
    terms = optimizer.loss(batch, Forward(scores=torch.tensor(scores)))
    return float(fn.weigh(terms.loss, batch.weights, batch.mask) / len(batch))


def test_a_pair() -> None:
    batch = RewardModel().prepare(toy_batch([1, 1], group=[0, 0], rewards=[0.0, 1.0]))
    assert objective(RewardModel(), batch, [0.5, 1.5]) == pytest.approx(0.313262, rel=1e-4)  # gap 1
    assert objective(RewardModel(), batch, [1.0, 1.0]) == pytest.approx(0.693147, rel=1e-4)


def test_equal_scores_are_half_right() -> None:
    batch = RewardModel().prepare(toy_batch([1, 1], group=[0, 0], rewards=[0.0, 1.0]))
    for scores, accuracy in (([0.3, 0.3], 0.5), ([0.3, 0.3 + 2**-24], 0.5), ([0.3, 0.301], 1.0), ([0.301, 0.3], 0.0)):
        metrics = RewardModel().loss(batch, Forward(scores=torch.tensor(scores))).metrics
        assert metrics["accuracy"].mean() == accuracy


def test_all_three_pairs_of_a_ranking_count_alike() -> None:
    # ranked 3 > 2 > 1 with scores 1.5, 1, 0: gaps 0.5, 1.5, 1: (0.474077 + 0.201413 + 0.313262) / 3 = 0.329584
    batch = RewardModel().prepare(toy_batch([1] * 3, group=[0] * 3, rewards=[3.0, 2.0, 1.0]))
    assert objective(RewardModel(), batch, [1.5, 1.0, 0.0]) == pytest.approx(0.329584, rel=1e-4)
    metrics = RewardModel().loss(batch, Forward(scores=torch.tensor([1.0, 1.5, 0.0]))).metrics
    assert metrics["accuracy"].mean() == pytest.approx(2 / 3)  # 3 over 2 is wrong, the other two are right
    assert metrics["margin"].mean() == pytest.approx((-0.5 + 1.0 + 1.5) / 3)


def test_a_margin() -> None:
    # gaps 0.5, 1.5, 1 less 0.5: 0, 1, 0.5: (0.693147 + 0.313262 + 0.474077) / 3 = 0.493495
    batch = toy_batch([1] * 3, group=[0] * 3, rewards=[3.0, 2.0, 1.0])
    batch = replace(batch, extra={"margin": torch.full((3,), 0.5)})
    assert objective(RewardModel(margin="margin"), batch, [1.5, 1.0, 0.0]) == pytest.approx(0.493495, rel=1e-4)


def test_centring() -> None:
    # 0.01·((1.5 + 1)² + 1.5² + 1²) / 3 = 0.01·9.5 / 3 = 0.031667 on top of 0.329584
    batch = toy_batch([1] * 3, group=[0] * 3, rewards=[3.0, 2.0, 1.0])
    assert objective(RewardModel(centring=0.01), batch, [1.5, 1.0, 0.0]) == pytest.approx(0.361251, rel=1e-4)


def test_groups_count_by_their_rows_and_pairs_within_them_alike() -> None:
    # a pair (gap 1) and a triple (0.329584): (2·0.313262 + 3·0.329584) / 5 = 0.323055
    batch = toy_batch([1] * 5, group=[0, 0, 1, 1, 1], rewards=[1.0, 0.0, 3.0, 2.0, 1.0])
    assert objective(RewardModel(), batch, [1.0, 0.0, 1.5, 1.0, 0.0]) == pytest.approx(0.323055, rel=1e-4)


def test_a_tie_inside_a_ranking_is_no_pair() -> None:
    # rewards (2, 1, 1): two pairs, gaps 1.5 and 0.5: (0.201413 + 0.474077) / 2 = 0.337745
    batch = RewardModel().prepare(toy_batch([1] * 3, group=[0] * 3, rewards=[2.0, 1.0, 1.0]))
    assert objective(RewardModel(), batch, [1.5, 0.0, 1.0]) == pytest.approx(0.337745, rel=1e-4)


def test_groups_that_prefer_nothing_are_left_out() -> None:
    batch = toy_batch([1] * 4, group=[0, 0, 1, 2], rewards=[1.0, 1.0, 5.0, 0.0])
    assert len(RewardModel().prepare(batch)) == 0
