"""Losses of online preferences and self-play: figures reckoned by hand, fixed points, and what they are elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from alignzoo_self_play.copg import CoPG
from alignzoo_self_play.dno import DNO
from alignzoo_self_play.inpo import INPO
from alignzoo_self_play.rebel import REBEL
from alignzoo_self_play.selm import SELM
from alignzoo_self_play.sppo import SPPO
from alignzoo_self_play.wins import win_rates
from objectives import answers, logistic, objective

REWARDS = [2.0, 0.0, 1.0]
SAID, BEFORE = [-1.0, -2.0, -1.5], [-1.5, -1.5, -2.5]  # log-ratios of 0.5, -0.5 and 1


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_rebel_regresses_on_differences_of_rewards() -> None:
    found = objective(REBEL(eta=0.5), answers(REWARDS), logprobs=SAID, old_logprobs=BEFORE)
    # pairs (0,1), (0,2), (1,2): log-ratios/η 2, -1, -3 apart, rewards 2, 1, -1 apart
    assert found.loss == pytest.approx((0 + 4 + 4) / 3)


def test_rebel_is_content_where_nothing_is_better_and_nothing_has_moved() -> None:
    for rewards, said in (([1.0, 1.0], [-1.0, -1.0]), ([3.0, 1.0], [0.0, -2.0])):
        found = objective(REBEL(eta=1.0), answers(rewards), logprobs=said, old_logprobs=[-1.0, -1.0])
        assert found.loss == pytest.approx(0) and not found.gradient["logprobs"].any()


def test_the_gradient_of_copg_is_that_of_a_squared_error_and_on_preferences_of_ipo() -> None:
    beta = 0.5
    found = objective(CoPG(beta=beta), answers(REWARDS), logprobs=SAID, ref_logprobs=BEFORE)
    said = torch.tensor(SAID, dtype=torch.float64, requires_grad=True)
    ratio, r = said - torch.tensor(BEFORE), torch.tensor(REWARDS, dtype=torch.float64)
    pairs = [(0, 1), (0, 2), (1, 2)]
    errors = [((r[i] - r[j]) - beta * (ratio[i] - ratio[j])) ** 2 / (2 * beta) for i, j in pairs]
    torch.stack(errors).mean().backward()
    assert torch.allclose(found.gradient["logprobs"], said.grad, atol=1e-12)
    # IPO: (d - 1/2β')², β' = β/2: for a pair of rewards 1 and 0 the same up to the factor β/2
    found = objective(CoPG(beta=beta), answers([1.0, 0.0]), logprobs=SAID[:2], ref_logprobs=BEFORE[:2])
    ipo = 2 * (1.0 - 1 / beta) * beta / 2
    assert found.gradient["logprobs"].tolist() == pytest.approx([ipo, -ipo])


def test_inpo_is_ipo_to_the_reference_or_to_the_policy_of_the_step() -> None:
    columns = {"logprobs": SAID[:2], "old_logprobs": BEFORE[:2], "ref_logprobs": [-2.0, -1.0]}
    # d(π) = 1, d(π_t) = 0, d(ref) = -1; 1/2η = 2.5
    whole = objective(INPO(eta=0.2, tau=0.2), answers([1.0, 0.0]), **columns)
    assert whole.loss == pytest.approx((1 + 1 - 2.5) ** 2)
    none = objective(INPO(eta=0.2, tau=0.0), answers([1.0, 0.0]), **columns)
    assert none.loss == pytest.approx((1 - 0 - 2.5) ** 2)
    half = objective(INPO(eta=0.2, tau=0.1), answers([1.0, 0.0]), **columns)
    assert half.loss == pytest.approx((1 + 0.5 - 2.5) ** 2, abs=1e-12)


def test_win_rates() -> None:
    # each against itself is ½
    expected = [
        (0.5 + sigmoid(2) + sigmoid(1)) / 3,
        (sigmoid(-2) + 0.5 + sigmoid(-1)) / 3,
        (sigmoid(-1) + sigmoid(1) + 0.5) / 3,
    ]
    assert win_rates(answers(REWARDS), "bradley-terry").tolist() == pytest.approx(expected)
    assert win_rates(answers([0.9, 0.1]), "score").tolist() == pytest.approx([0.9, 0.1])


def test_the_fixed_point_of_sppo_is_the_win_rate() -> None:
    rates = win_rates(answers(REWARDS), "bradley-terry").tolist()
    target = [10 * (rate - 0.5) for rate in rates]
    content = objective(SPPO(eta=10.0), answers(REWARDS), logprobs=target, ref_logprobs=[0.0] * 3)
    assert content.loss == pytest.approx(0, abs=1e-10)
    found = objective(SPPO(eta=10.0, wins="score"), answers([0.9, 0.1]), logprobs=[0.0, 0.0], ref_logprobs=[0.0, 0.0])
    assert found.loss == pytest.approx(16) and found.gradient["logprobs"].tolist() == pytest.approx([-4, 4])


def test_dno_is_dpo_whose_labels_are_as_sure_as_the_win_rates() -> None:
    columns = {"logprobs": SAID[:2], "ref_logprobs": BEFORE[:2]}  # 1 apart
    found = objective(DNO(eta=2.0, wins="score"), answers([0.9, 0.1]), **columns)
    sure = sigmoid(0.8)
    assert found.loss == pytest.approx(sure * logistic(2.0) + (1 - sure) * logistic(-2.0))


def test_selm_is_dpo_and_pushes_down_what_was_tried() -> None:
    columns = {"logprobs": SAID, "ref_logprobs": BEFORE}
    # best and worst: 0 and 1, log-ratios 0.5 and -0.5; the mean of all three log-ratios is 1/3
    found = objective(SELM(beta=2.0, alpha=0.3), answers(REWARDS), **columns)
    assert found.loss == pytest.approx(logistic(2.0) + 0.3 * 2.0 / 3)
    plain = objective(SELM(beta=2.0, alpha=0.0), answers(REWARDS), **columns)
    pushed = found.gradient["logprobs"] - plain.gradient["logprobs"]
    assert pushed.tolist() == pytest.approx([0.3 * 2.0 / 3] * 3)
    slope = 2.0 / (1 + math.exp(2.0))
    assert plain.gradient["logprobs"].tolist() == pytest.approx([-slope, slope, 0])
