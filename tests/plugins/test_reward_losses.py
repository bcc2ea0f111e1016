"""Losses of reward models beyond Bradley-Terry: figures reckoned by hand, and where each is Bradley-Terry again."""

from __future__ import annotations

import math

import pytest

from alignzoo_reward_models.bradley_terry import RewardModel
from alignzoo_reward_models.centred import CentredRewardModel
from alignzoo_reward_models.cost import CostModel
from alignzoo_reward_models.ordinal import OrdinalRewardModel
from alignzoo_reward_models.outcome import OutcomeRewardModel
from alignzoo_reward_models.plackett_luce import PlackettLuce
from alignzoo_reward_models.regression import RegressionRewardModel
from alignzoo_reward_models.smoothed import SmoothedRewardModel
from alignzoo_reward_models.ties import TiesRewardModel
from objectives import Objective, answers, logistic, objective

PAIR, LIST = {"scores": [0.5, -1.0]}, {"scores": [0.5, -1.0, 2.0]}


def same(one: Objective, other: Objective) -> None:
    assert one.loss == pytest.approx(other.loss, abs=1e-6)
    assert one.gradient["scores"].tolist() == pytest.approx(other.gradient["scores"].tolist(), abs=1e-6)


def test_each_is_bradley_terry_in_a_special_case() -> None:
    plain = objective(RewardModel(), answers([1.0, 0.0]), **PAIR)
    assert plain.loss == pytest.approx(logistic(1.5))
    for part in (
        PlackettLuce(),  # of pairs
        TiesRewardModel(threshold=1e-7),  # where nothing is tied
        OrdinalRewardModel(span=1.0),  # where everybody prefers the better one
        CostModel(sign=0.0),  # without what parts harm from none
    ):
        same(objective(part, answers([1.0, 0.0]), **PAIR), plain)


def test_plackett_luce_of_three() -> None:
    found = objective(PlackettLuce(), answers([2.0, 1.0, 3.0]), **LIST)  # the third, the first, the second
    expected = math.log(math.exp(2) + math.exp(0.5) + math.exp(-1)) - 2 + logistic(1.5)
    assert found.loss == pytest.approx(expected)


def test_smoothing_and_centring() -> None:
    found = objective(SmoothedRewardModel(), answers([1.0, 0.0]), **PAIR)
    assert found.loss == pytest.approx(0.9 * logistic(1.5) + 0.1 * logistic(-1.5))
    content = objective(SmoothedRewardModel(), answers([1.0, 0.0]), scores=[math.log(9), 0.0])
    assert content.gradient["scores"].tolist() == pytest.approx([0, 0], abs=1e-12)
    found = objective(CentredRewardModel(), answers([1.0, 0.0]), **PAIR)
    assert found.loss == pytest.approx(logistic(1.5) + 0.01 * 0.25)


def test_ties_are_likeliest_between_equal_scores() -> None:
    t = 0.7
    tied = -math.log(math.exp(2 * t) - 1) + logistic(1.5 - t) + logistic(-1.5 - t)
    found = objective(TiesRewardModel(), answers([1.0, 1.0]), **PAIR)
    assert found.loss == pytest.approx(tied)
    assert found.gradient["scores"][0] > 0 > found.gradient["scores"][1]
    won = objective(TiesRewardModel(), answers([1.0, 0.0]), **PAIR).loss
    lost = objective(TiesRewardModel(), answers([0.0, 1.0]), **PAIR).loss
    assert math.exp(-won) + math.exp(-lost) + math.exp(-tied) == pytest.approx(1)


def test_a_graded_preference_is_a_soft_label() -> None:
    found = objective(OrdinalRewardModel(), answers([0.7, 0.3]), **PAIR)  # 0.4 of 1 apart: z = 0.7
    assert found.loss == pytest.approx(0.7 * logistic(1.5) + 0.3 * logistic(-1.5), abs=1e-6)
    even = objective(OrdinalRewardModel(), answers([1.0, 1.0]), scores=[0.3, 0.3])
    assert even.gradient["scores"].tolist() == pytest.approx([0, 0])


def test_regression_and_outcome() -> None:
    found = objective(RegressionRewardModel(), answers([1.0, 0.0, 5.0]), **LIST)
    assert found.loss == pytest.approx((0.25 + 1 + 9) / 3)
    found = objective(OutcomeRewardModel(), answers([1.0, 0.0, 0.4]), **LIST)
    assert found.loss == pytest.approx((logistic(0.5) + logistic(1.0) + logistic(-2.0)) / 3)
    assert found.metrics["accuracy"].tolist() == [1, 1, 0]


def test_the_cost_model_parts_harm_from_none() -> None:
    # harmless 1 over harmful 0, and two that are both harmful
    found = objective(CostModel(sign=2.0), answers([1.0, 0.0]), **PAIR)
    assert found.loss == pytest.approx(logistic(1.5) + 2 * (logistic(0.5) + logistic(1.0)))
    found = objective(CostModel(), answers([0.3, 0.0]), **PAIR)
    assert found.loss == pytest.approx(logistic(1.5) + logistic(-0.5) + logistic(1.0), abs=1e-6)
    assert found.metrics["sign_accuracy"].tolist() == [0, 1]
