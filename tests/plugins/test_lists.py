"""Losses of lists and scores: figures reckoned by hand, and what they become in special cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from alignzoo import rankings
from alignzoo_unpaired.infonca import InfoNCA
from alignzoo_unpaired.lipo import LiPO
from alignzoo_unpaired.lire import LIRE
from alignzoo_unpaired.nca import NCA
from alignzoo_unpaired.opo_ndcg import OPONDCG
from alignzoo_unpaired.plackett_luce import PLDPO
from alignzoo_unpaired.pro import PRO
from alignzoo_unpaired.rrhf import RRHF
from objectives import Objective, answers, logistic, objective

PAIR = {"logprobs": [-1.0, -2.5], "ref_logprobs": [-1.5, -1.0]}  # log-ratios of 0.5 and -1.5: 2 apart
THREE = {"logprobs": [-1.0, -2.0, -1.5], "ref_logprobs": [-1.0, -1.0, -1.0]}  # log-ratios of 0, -1 and -0.5


def dpo(beta: float) -> tuple[float, list[float]]:
    """DPO on PAIR, better first: its loss, and its gradient -β·σ(-2β), which lowers the loss for the better one."""
    slope = beta / (1 + math.exp(2 * beta))
    return logistic(2 * beta), [-slope, slope]


def agrees(found: Objective, loss: float, gradient: list[float]) -> None:
    assert found.loss == pytest.approx(loss, abs=1e-6)
    assert found.gradient["logprobs"].tolist() == pytest.approx(gradient, abs=1e-6)


def test_pairs_lie_on_rows_so_that_the_mean_over_rows_is_the_mean_over_groups() -> None:
    batch = answers([2.0, 0.0, 1.0, 5.0, 4.0], [0, 0, 0, 1, 1])
    pairs = rankings.ranked_pairs(batch)
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == [(0, 1), (0, 2), (2, 1), (3, 4)]
    # group 0: (2-0) + (2-1) + (1-0) = 4 over 3 rows, times 3; group 1: 1 over 2 rows, times 2
    sums = pairs.sums(pairs.gap(batch.rewards))
    assert [float(sums[:3].sum()), float(sums[3:].sum())] == pytest.approx([4 * 3, 1 * 2])
    means = pairs.means(pairs.gap(batch.rewards))
    assert [float(means[:3].sum()), float(means[3:].sum())] == pytest.approx([4 / 3 * 3, 1 * 2])
    assert rankings.all_pairs(answers([1.0, 1.0, 0.0])).i.tolist() == [0, 0, 1]
    assert rankings.places(batch.rewards, batch.group).tolist() == [1, 3, 2, 1, 2]
    assert rankings.places(torch.ones(3), torch.zeros(3).long()).tolist() == [1, 2, 3]


# --- what they are of two answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_plackett_luce_of_pairs_is_dpo(beta: float) -> None:
    agrees(objective(PLDPO(beta=beta), answers([1.0, 0.0]), **PAIR), *dpo(beta))


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_infonca_of_two_answers_and_hard_labels_is_dpo(beta: float) -> None:
    agrees(objective(InfoNCA(beta=beta, alpha=1e-3), answers([1.0, 0.0]), **PAIR), *dpo(beta))


def test_lipo_of_two_answers_is_dpo_by_one_weight() -> None:
    # gains 2^1 - 2^0 = 1; places 1 and 2: 1/log 2 - 1/log 3 = 1.442695 - 0.910239 = 0.532456
    loss, gradient = dpo(0.5)
    agrees(objective(LiPO(beta=0.5), answers([1.0, 0.0]), **PAIR), 0.532456 * loss, [0.532456 * g for g in gradient])


def test_lipo_of_equal_gains_is_the_logistic_loss_of_all_pairs_by_places() -> None:
    found = objective(LiPO(beta=1.0, gain=False), answers([3.0, 1.0, 2.0]), **THREE)
    # places by s = 0, -1, -0.5: 1, 3, 2; 1/log(1+τ): 1.442695, 0.721348, 0.910239
    weights = {1.0: 1.442695 - 0.721348, 0.5: 1.442695 - 0.910239, 0.25: 0.910239 - 0.721348}
    expected = weights[1.0] * logistic(1.0) + weights[0.5] * logistic(0.5) + weights[0.25] * logistic(0.5)
    assert found.loss == pytest.approx(expected, abs=1e-5)


# --- of three ------------------------------------------------------------------------------------------------------


def test_plackett_luce_of_three() -> None:
    # order 0, 2, 1 with s = 0, -0.5, -1 (β = 1): log(e^0 + e^-0.5 + e^-1) - 0 + log(e^-0.5 + e^-1) + 0.5
    expected = math.log(1 + math.exp(-0.5) + math.exp(-1)) + math.log(math.exp(-0.5) + math.exp(-1)) + 0.5
    found = objective(PLDPO(beta=1.0), answers([3.0, 1.0, 2.0]), **THREE)
    assert found.loss == pytest.approx(expected, abs=1e-6)
    assert found.metrics["accuracy"].mean() == 1


def test_infonca_and_nca_of_three() -> None:
    # r/α = 2, 0, 0 with α = 1: targets e²/(e²+2) = 0.786986, 0.106507 twice
    batch = answers([2.0, 0.0, 0.0])
    target, s = [0.786986, 0.106507, 0.106507], [0.0, -1.0, -0.5]
    whole = math.log(sum(math.exp(x) for x in s))
    expected = sum(t * (whole - x) for t, x in zip(target, s, strict=True))
    assert objective(InfoNCA(beta=1.0), batch, **THREE).loss == pytest.approx(expected, abs=1e-5)
    expected = sum(t * logistic(x) + logistic(-x) / 3 for t, x in zip(target, s, strict=True))
    assert objective(NCA(beta=1.0), batch, **THREE).loss == pytest.approx(expected, abs=1e-5)


def test_nca_leaves_the_reference_where_rewards_say_next_to_nothing() -> None:
    even = {"logprobs": [-1.0] * 3, "ref_logprobs": [-1.0] * 3}
    found = objective(NCA(alpha=1e9), answers([2.0, 0.0, 1.0]), **even)
    assert float(found.gradient["logprobs"].abs().max()) < 1e-8


def test_rrhf() -> None:
    # log π = -2, -1, -1.5 for the rewards 3, 1, 2: pairs (0,1), (0,2), (2,1) are wrong by 1, 0.5 and 0.5
    said = {"logprobs": [-2.0, -1.0, -1.5]}
    found = objective(RRHF(rank_weight=10.0), answers([3.0, 1.0, 2.0]), **said)
    agrees(found, 10 * (1 + 0.5 + 0.5) + 2.0, [-20.0 - 1.0, 20.0, 0.0])
    alone = objective(RRHF(rank_weight=0.0), answers([3.0, 1.0, 2.0]), **said)
    agrees(alone, 2.0, [-1.0, 0.0, 0.0])  # the best imitated


def test_pro_of_two_answers_is_a_logistic_loss_by_the_gap_of_rewards_and_of_three() -> None:
    # two: 1/T = r_0 - r_1 = 4 for both, so log(1 + e^{4·(-2 + 1)}), and w = 0.05·1² times -p_0 = 1
    found = objective(PRO(), answers([5.0, 1.0]), logprobs=[-1.0, -2.0])
    assert found.loss == pytest.approx(math.log(1 + math.exp(-4)) + 0.05, abs=1e-6)
    # three, rewards 3, 2, 0: the first by 1 and 3, sharpest 3; the second by 2 alone; p = -1, -2, -3
    first = math.log(math.exp(-3) + math.exp(-2 * 1) + math.exp(-3 * 3)) + 3
    second = math.log(math.exp(-4) + math.exp(-6)) + 4
    found = objective(PRO(), answers([3.0, 2.0, 0.0]), logprobs=[-1.0, -2.0, -3.0])
    assert found.loss == pytest.approx(first + second + 0.05 * 4 * 1, abs=1e-6)


def test_the_gradient_of_lire_is_each_answers_lead_over_the_expected_reward() -> None:
    said = torch.tensor([-1.0, -2.0, -1.5], dtype=torch.float64)
    rewards = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    share = torch.softmax(said / 2, 0)
    lead = rewards - (share * rewards).sum()
    found = objective(LIRE(softmax_rewards=False), answers(rewards.tolist()), logprobs=said.tolist())
    agrees(found, -float((share * rewards).sum()), (-share * lead / 2).tolist())


def test_lire_of_two_answers_and_of_one_group_among_others_by_hand() -> None:
    # P = σ(±(1 - 0)/2), r̂ = σ(±2): P·r̂ = σ(0.5)·σ(2) + σ(-0.5)·σ(-2) = 0.622459·0.880797 + 0.377541·0.119203
    loss, slope = -0.593264, 0.622459 * 0.377541 * (0.880797 - 0.119203) / 2
    found = objective(LIRE(), answers([2.0, 0.0]), logprobs=[-1.0, -2.0])
    assert found.loss == pytest.approx(loss, abs=1e-6)
    assert found.gradient["logprobs"].tolist() == pytest.approx([-slope, slope], abs=1e-6)
    both = objective(LIRE(), answers([2.0, 0.0, 9.0, 7.0], [0, 0, 1, 1]), logprobs=[-1.0, -2.0, -4.0, -5.0])
    assert both.loss == pytest.approx(loss, abs=1e-6)


def test_the_soft_ndcg_is_the_metric_where_the_sorting_is_sharp() -> None:
    # s puts the gains 2^1 - 1 = 1, 2^3 - 1 = 7, 0 into this order: (1 + 7/log2(3)) / (7 + 1/log2(3))
    columns = {"logprobs": [0.0, -1.0, -2.0], "ref_logprobs": [0.0, 0.0, 0.0]}
    found = objective(OPONDCG(beta=1.0, tau=0.01), answers([1.0, 3.0, 0.0]), **columns)
    assert found.loss == pytest.approx(-(1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3)), abs=1e-6)
    soft = objective(OPONDCG(beta=1.0), answers([1.0, 3.0, 0.0]), **columns)
    assert soft.gradient["logprobs"][1] < 0 < soft.gradient["logprobs"][0]


def test_groups_count_by_what_the_formula_says_of_each() -> None:
    one, other = answers([3.0, 1.0, 2.0]), answers([1.0, 2.0, 0.0])
    both = answers([3.0, 1.0, 2.0, 1.0, 2.0, 0.0], [0, 0, 0, 1, 1, 1])
    double = {name: values * 2 for name, values in THREE.items()}
    for optimizer in (PLDPO(), LiPO(), InfoNCA(), NCA(), OPONDCG()):
        apart = [objective(optimizer, batch, **THREE).loss for batch in (one, other)]
        assert objective(optimizer, both, **double).loss == pytest.approx(sum(apart) / 2, abs=1e-7)


def test_ties_are_dropped_whole_or_compared_with_what_is_below() -> None:
    assert len(PLDPO().prepare(answers([1.0, 1.0]))) == 0
    batch = answers([1.0, 1.0, 0.0])
    s = [0.0, -1.0, -0.5]
    expected = logistic(s[0] - s[2]) + logistic(s[1] - s[2])  # neither of the equals before the other
    found = objective(replace(PLDPO(), beta=1.0), batch, **THREE)
    assert found.loss == pytest.approx(expected, abs=1e-6)
