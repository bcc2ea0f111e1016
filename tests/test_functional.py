"""The shared mathematics, against numbers computed by hand."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.testing import toy_batch

MASK = torch.tensor([[False, True, False], [False, True, True]])
NOTHING = torch.zeros(0, dtype=torch.long)


def close(found: Tensor, expected: Any, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=rtol, atol=atol)


# --- seeds --------------------------------------------------------------------------------------------------------


def test_derived_seeds_repeat_and_differ_by_seed_and_use() -> None:
    seeds = [fn.derive(*uses) for uses in [(0,), (1,), (0, 1), (0, "1", 1), (0, 11), (0, "sample"), (0, "shuffle")]]
    assert len(set(seeds)) == len(seeds)
    assert fn.derive(0, 3, "sample") == fn.derive(0, 3, "sample")
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


# --- log-probabilities --------------------------------------------------------------------------------------------


def test_token_logprobs() -> None:
    # softmax(0, log 3) = (1/4, 3/4): log 3/4 = -0.287682, entropy ¼·log 4 + ¾·log 4/3 = 0.346574 + 0.215762
    logprobs, entropy = fn.token_logprobs(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]))
    close(logprobs, [-0.287682])
    close(entropy, [0.562335])


def test_token_logprobs_of_large_logits_are_finite_and_of_half_precision_are_float32() -> None:
    logprobs, entropy = fn.token_logprobs(torch.tensor([[1e4, 0.0]]), torch.tensor([0]))
    close(logprobs, [0.0])
    close(entropy, [0.0])
    assert fn.token_logprobs(torch.zeros(1, 2, dtype=torch.bfloat16), torch.tensor([0]))[0].dtype == torch.float32
    assert fn.token_logprobs(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0]))[0].dtype == torch.float64


def test_shifted_logprobs_read_the_position_before() -> None:
    logits = torch.zeros(1, 3, 2)
    logits[0, 1] = torch.tensor([0.0, math.log(3)])  # position 1 speaks about token 2
    logprobs, entropy = fn.shifted_logprobs(logits, torch.tensor([[0, 0, 1]]), torch.tensor([[False, True, True]]))
    close(logprobs, [[0.0, -math.log(2), math.log(0.75)]])
    close(entropy, [[0.0, math.log(2), 0.562335]])


def test_the_first_token_has_nothing_before_it() -> None:
    logprobs, _ = fn.shifted_logprobs(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    close(logprobs, [[0.0, -math.log(2)]])


def test_predicted_before_and_scatter_are_inverses() -> None:
    assert fn.predicted(MASK).tolist() == [[True, False], [True, True]]
    states = torch.arange(12.0).view(2, 3, 2)
    close(fn.before(states), states[:, :2].tolist())
    column = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    close(fn.scatter(column[:, 1:][fn.predicted(MASK)], MASK), column.tolist())


# --- whole distributions ------------------------------------------------------------------------------------------

TEACHER, STUDENT = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.125, 0.125, 0.75]]).log()


def test_collision() -> None:
    close(fn.collision(TEACHER), [0.375])  # 1/4 + 1/16 + 1/16
    close(fn.collision(torch.full((2, 3, 8), 1 / 8).log()), torch.full((2, 3), 1 / 8))


def test_kl_divergence() -> None:
    close(fn.kl_divergence(TEACHER, STUDENT), [0.5917809])  # ln 4 / 2 + ln 2 / 4 - ln 3 / 4
    close(fn.kl_divergence(STUDENT, TEACHER), [0.5640290])  # -ln 4 / 8 - ln 2 / 8 + 3·ln 3 / 4
    close(fn.kl_divergence(TEACHER, TEACHER), [0.0])


def test_jsd() -> None:
    # β = 1/2: m = (5, 3, 8)/16; KL(P ‖ m) = ln(8/5)/2 + ln(4/3)/4 - ln 2 / 4 = 0.1336355 and
    # KL(Q ‖ m) = ln(2/5)/8 + ln(2/3)/8 + 3·ln(3/2)/4 = 0.1388794
    close(fn.jsd(TEACHER, STUDENT), [0.1362575])
    close(fn.jsd(STUDENT, TEACHER), [0.1362575])
    # β = 1/4: m = (7, 5, 20)/32; KL(P ‖ m) = 0.3017675 and KL(Q ‖ m) = 0.0388962
    close(fn.jsd(TEACHER, STUDENT, 0.25), [0.1046141])
    close(fn.jsd(STUDENT, TEACHER, 0.75), [0.1046141])
    close(fn.jsd(TEACHER, STUDENT, 0.0), [0.5917809])  # the forward KL
    close(fn.jsd(TEACHER, STUDENT, 1.0), [0.5640290])  # the reverse KL


def test_jsd_tends_to_beta_times_the_forward_and_the_reverse_kl() -> None:
    teacher, student = TEACHER.double(), STUDENT.double()
    close(fn.jsd(teacher, student, 1e-6) / 1e-6, fn.kl_divergence(teacher, student), rtol=1e-4)
    close(fn.jsd(teacher, student, 1 - 1e-6) / 1e-6, fn.kl_divergence(student, teacher), rtol=1e-4)


def test_top_kl() -> None:
    close(fn.top_kl(TEACHER, STUDENT, 1), [0.4133393])  # ln 4 / 2 + ln((1/2)/(7/8)) / 2
    close(fn.top_kl(TEACHER, STUDENT, 3), [0.5917809])  # the whole vocabulary: the KL itself
    close(fn.top_kl(TEACHER, STUDENT, 64), [0.5917809])


@pytest.mark.parametrize("k", [1, 3, 8, 19, 20])
def test_top_kl_is_between_0_and_the_kl_and_grows_with_k(k: int) -> None:
    rng = torch.Generator().manual_seed(0)
    teacher, student = (torch.log_softmax(3 * torch.randn(50, 20, generator=rng).double(), -1) for _ in range(2))
    found, more = fn.top_kl(teacher, student, k), fn.top_kl(teacher, student, k + 1)
    assert (found > 0).all() and (found <= more + 1e-12).all()
    assert (more <= fn.kl_divergence(teacher, student) + 1e-12).all()


def test_compared_is_each_of_them_by_its_column() -> None:
    close(fn.compared("kl", STUDENT, TEACHER), [0.5917809])
    close(fn.compared("reverse_kl", STUDENT, TEACHER), [0.5640290])
    close(fn.compared("jsd", STUDENT, TEACHER, 0.25), [0.1046141])
    close(fn.compared("top_kl", STUDENT, TEACHER, 1), [0.4133393])
    with pytest.raises(ValueError, match="'entropy' compares no two distributions"):
        fn.compared("entropy", STUDENT, TEACHER)


# --- weightings ---------------------------------------------------------------------------------------------------


def test_weightings() -> None:
    close(fn.sequence_mean(MASK), [[0, 1, 0], [0, 0.5, 0.5]])
    close(fn.token_mean(MASK), [[0, 2 / 3, 0], [0, 2 / 3, 2 / 3]])  # N/Σmask = 2/3
    close(fn.sequence_sum(MASK), [[0, 1, 0], [0, 1, 1]])
    close(fn.constant_length(MASK, 4), [[0, 0.25, 0], [0, 0.25, 0.25]])


def test_weightings_of_nothing_are_nothing() -> None:
    empty = torch.zeros(2, 3, dtype=torch.bool)
    for weights in (fn.sequence_mean(empty), fn.token_mean(empty), fn.token_mean(empty[:0])):
        assert not weights.any()


def test_weigh() -> None:
    terms = torch.tensor([[9.0, 1.0, 9.0], [9.0, 2.0, 3.0]])
    close(fn.weigh(terms, fn.sequence_mean(MASK), MASK), 1.0 + 2.5)
    close(fn.weigh(terms, torch.tensor([1.0, 2.0]), MASK), 1.0 + 2 * 5)  # a row's weight on each of its tokens
    close(fn.weigh(torch.tensor([4.0, 5.0]), torch.tensor([0.5, 2.0]), MASK), 12.0)
    ones = torch.ones(1, 300, dtype=torch.bfloat16)  # bfloat16 counts no further than 256
    assert fn.weigh(ones, ones, ones.bool()) == 300 and fn.weigh(ones, ones, ones.bool()).dtype == torch.float32


def test_weigh_refuses_token_weights_on_row_terms() -> None:
    with pytest.raises(ValueError, match=r"loss has shape \(2,\) but prepare\(\) left weights of shape \(2, 3\)"):
        fn.weigh(torch.zeros(2), fn.sequence_mean(MASK), MASK)


def test_masked_mean() -> None:
    close(fn.masked_mean(torch.tensor([[9.0, 1.0, 9.0], [9.0, 2.0, 6.0]]), MASK), 3.0)
    close(fn.masked_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)), 0.0)


def test_whiten() -> None:
    values = torch.tensor([[9.0, 1.0, 9.0], [9.0, 2.0, 3.0]])  # mean 2, unbiased variance (1 + 0 + 1) / 2 = 1
    close(fn.whiten(values, MASK), [[0, -1, 0], [0, 0, 1]], atol=1e-6)
    close(fn.whiten(values, MASK, shift=False), [[0, 1, 0], [0, 2, 3]], atol=1e-6)


def test_whiten_one_value_and_equal_values() -> None:
    one = torch.tensor([[True, False]])
    close(fn.whiten(torch.tensor([[5.0, 7.0]]), one), [[0.0, 0.0]])
    close(fn.whiten(torch.tensor([[5.0, 7.0]]), one, shift=False), [[5.0, 0.0]])
    assert fn.whiten(torch.tensor([[0.1, 7.0]]), one).abs().max() < 1e-6
    close(fn.whiten(torch.full((2, 3), 4.0), MASK), torch.zeros(2, 3).tolist())


# --- groups -------------------------------------------------------------------------------------------------------


def test_groups_are_numbered_in_order_of_appearance() -> None:
    assert fn.group_index(torch.tensor([7, 7, 3, 9])).tolist() == [0, 0, 1, 2]
    assert fn.group_index(NOTHING).tolist() == []


def test_group_mean_and_std() -> None:
    values, group = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0, 9.0]), torch.tensor([4, 4, 1, 1, 1, 2])
    close(fn.group_mean(values, group), [2, 2, 3, 3, 3, 9])
    # (1 + 1)/1 = 2; (1 + 1 + 4)/2 = 3; one value: 0
    close(fn.group_std(values, group), [2**0.5] * 2 + [3**0.5] * 3 + [0])
    assert fn.group_mean(values[:0], NOTHING).tolist() == fn.group_std(values[:0], NOTHING).tolist() == []


def test_leave_one_out() -> None:
    values, group = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0, 9.0]), torch.tensor([4, 4, 1, 1, 1, 2])
    assert fn.group_size(group).tolist() == [2, 2, 3, 3, 3, 1]
    # (2 + 5) / 2 twice, (2 + 2) / 2; a single one has no others
    close(fn.leave_one_out(values, group), [3, 1, 3.5, 3.5, 2, 9])
    assert fn.leave_one_out(values[:0], NOTHING).tolist() == fn.group_size(NOTHING).tolist() == []


def test_best_and_worst_of_each_group() -> None:
    batch = toy_batch([1, 2, 3, 4, 5, 6], group=[0, 0, 0, 1, 1, 2], rewards=[1.0, 3.0, 3.0, 2.0, 2.0, 7.0])
    assert fn.best(batch).mask.sum(1).tolist() == [2, 4, 6]  # the first of equals
    assert fn.best_and_worst(batch).mask.sum(1).tolist() == [2, 1]  # ties and groups of one prefer nothing
    assert fn.untied(batch).mask.sum(1).tolist() == [1, 2, 3]


def test_nothing_is_best_of_nothing() -> None:
    empty = toy_batch([1], group=[0], rewards=[0.0]).select(slice(0, 0))
    for chosen in (fn.best(empty), fn.best_and_worst(empty), fn.untied(empty)):
        assert len(chosen) == 0
    for scale in ("group", "batch", "none"):
        assert fn.group_advantages(empty, scale=scale).tolist() == []


def test_group_advantages() -> None:
    batch = toy_batch([1] * 4, group=[0, 0, 1, 1], rewards=[2.0, 0.0, 1.0, 1.0])
    close(fn.group_advantages(batch, scale="none"), [1, -1, 0, 0])
    close(fn.group_advantages(batch), [0.707057, -0.707057, 0, 0])  # 1 / (√2 + 1e-4)
    close(fn.group_advantages(batch, scale="batch"), [1.224595, -1.224595, 0, 0])  # 1 / (√(2/3) + 1e-4)
    with pytest.raises(ValueError, match="scale must be 'group', 'batch' or 'none', got 'std'"):
        fn.group_advantages(batch, scale="std")


# --- credit and surrogates ----------------------------------------------------------------------------------------


def test_log_ratio_is_zero_under_the_mask_whatever_stands_there() -> None:
    logprobs = torch.tensor([[1e3, -1.0, 1e3], [-1e3, -2.0, -0.5]], requires_grad=True)
    ratio = fn.log_ratio(logprobs, torch.full((2, 3), -1.5), MASK)
    close(ratio, [[0, 0.5, 0], [0, -0.5, 1.0]])
    ratio.exp().sum().backward()
    assert not logprobs.grad[~MASK].any()


def test_at_last_token() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    close(fn.at_last_token(torch.tensor([3.0, 4.0, 5.0]), mask), [[0, 0, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]])


def test_gae() -> None:
    # γ = 0.9, λ = 0.5, r = (0, 4), V = (2, 3): δ2 = 1, δ1 = 0.9·3 - 2 = 0.7; A2 = 1, A1 = 0.7 + 0.45 = 1.15
    mask = torch.tensor([[False, True, True, False]])
    rewards, values = torch.tensor([[0.0, 0.0, 4.0, 0.0]]), torch.tensor([[0.0, 2.0, 3.0, 0.0]])
    advantages, returns = fn.gae(rewards, values, mask, gamma=0.9, lam=0.5)
    close(advantages, [[0, 1.15, 1, 0]])
    close(returns, [[0, 3.15, 4, 0]])


def test_gae_with_lambda_1_is_the_return_less_the_value_and_with_0_the_td_error() -> None:
    mask = torch.tensor([[True, True, True]])
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.5, 2.5]])
    close(fn.gae(rewards, values, mask, lam=1.0)[0], [[5.5, 3.5, 0.5]])  # 6 - 0.5, 5 - 1.5, 3 - 2.5
    close(fn.gae(rewards, values, mask, lam=0.0)[0], [[2.0, 3.0, 0.5]])  # 1 + 1.5 - 0.5, 2 + 2.5 - 1.5, 3 - 2.5


def test_gae_steps_over_masked_tokens_in_the_middle() -> None:
    whole = fn.gae(torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([[True, True]]))[0]
    gap = torch.tensor([[True, False, True]])
    found = fn.gae(torch.tensor([[0.0, 99.0, 4.0]]), torch.tensor([[2.0, 99.0, 3.0]]), gap)[0]
    assert found[gap].tolist() == whole[0].tolist()
    assert found[0, 1] == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "cost"),
    [
        (1.25, 3.5, -4.2),  # clipped at 1.2
        (0.5, 3.5, -1.75),  # a fall of the better is not clipped
        (0.5, -1.0, 0.8),  # clipped at 0.8
        (1.5, -1.0, 1.5),  # a rise of the worse is not clipped
        (1.0, 2.0, -2.0),
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, cost: float) -> None:
    close(fn.clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage)), cost)


def test_clipped_surrogate_with_a_higher_upper_clip() -> None:
    close(fn.clipped_surrogate(torch.tensor(1.5), torch.tensor(1.0), high=0.28), -1.28)


@pytest.mark.parametrize(
    ("value", "old", "target", "cost"),
    [
        (2.5, 1.0, 3.0, 1.62),  # ½·max(0.5², (1.2 - 3)²)
        (1.1, 1.0, 3.0, 1.805),  # within the clip: ½·1.9²
        (0.0, 1.0, 3.0, 4.5),  # away from the target: ½·max(3², (0.8 - 3)²)
    ],
)
def test_clipped_value_loss(value: float, old: float, target: float, cost: float) -> None:
    close(fn.clipped_value_loss(torch.tensor(value), torch.tensor(old), torch.tensor(target)), cost)


def test_kl_estimates() -> None:
    x = torch.tensor([0.0, math.log(2), -math.log(2)])
    close(fn.kl_k1(x), x.tolist())
    close(fn.kl_k3(x), [0.0, 0.5 - 1 + 0.693147, 2 - 1 - 0.693147])


def test_truncated_importance_weights() -> None:
    old = torch.tensor([[0.0, -1.0, -2.0, -1.0]], requires_grad=True)
    sampled = torch.tensor([[0.0, -1.0, -1.0, -3.0]])
    weights = fn.truncated_importance_weights(old, sampled, 2.0)
    close(weights, [[1.0, 1.0, 0.367879, 2.0]])  # e^0, e^0, e^-1, min(e^2, 2)
    assert not weights.requires_grad


def test_token_column() -> None:
    close(fn.token_column(torch.tensor([2.0, 3.0]), MASK), [[0, 2, 0], [0, 3, 3]])


# --- Bradley-Terry ----------------------------------------------------------------------------------------------


def test_two_players_in_closed_form() -> None:
    # without a prior s₁ - s₂ = log(w₁/w₂) = log 3; with one, the gradient 3 - 4·σ(d) - ridge·d/2 is 0
    nearly = fn.bradley_terry(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), 1e-9)
    torch.testing.assert_close(nearly, torch.tensor([math.log(3) / 2, -math.log(3) / 2]).double(), atol=1e-6, rtol=0)
    first, second = fn.bradley_terry(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), 0.5).tolist()
    d = first - second
    assert first == pytest.approx(-second) and 3 - 4 / (1 + math.exp(-d)) - 0.5 * d / 2 == pytest.approx(0, abs=1e-9)


def test_three_players_whose_odds_are_consistent() -> None:
    # strengths log 4, log 2, log 1 win 4:2, 4:1 and 2:1; less their mean log 2 that is log 2, 0, -log 2
    wins = torch.tensor([[0.0, 4 / 6, 4 / 5], [2 / 6, 0.0, 2 / 3], [1 / 5, 1 / 3, 0.0]])
    found = fn.bradley_terry(wins, 1e-9)
    torch.testing.assert_close(found, math.log(2) * torch.tensor([1.0, 0.0, -1.0]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_maximum_and_orders_players_alike(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    wins = (torch.rand(6, 6, generator=rng) < 0.3).double() * torch.rand(6, 6, generator=rng).double() * 5
    wins.fill_diagonal_(0)
    strengths = fn.bradley_terry(wins, 0.2).requires_grad_(True)
    objective = (wins * torch.nn.functional.logsigmoid(strengths[:, None] - strengths)).sum()
    (gradient,) = torch.autograd.grad(objective - 0.1 * (strengths**2).sum(), strengths)
    assert float(gradient.abs().max()) < 1e-8 and float(strengths.detach().sum().abs()) < 1e-8
    order = torch.randperm(6, generator=rng)
    torch.testing.assert_close(fn.bradley_terry(wins[order][:, order], 0.2), strengths.detach()[order])


def test_who_always_wins_stays_finite_and_who_never_plays_is_0() -> None:
    wins = torch.zeros(8, 8)
    wins[:7, :7] = torch.triu(torch.ones(7, 7), 1) * 1000
    found = fn.bradley_terry(wins, 1e-3)
    assert torch.isfinite(found).all() and (found[:6] > found[1:7]).all() and float(found[7]) == 0.0
    assert fn.bradley_terry(torch.zeros(0, 0), 0.1).tolist() == []


def test_a_margin_within_rounding_of_0_is_half_a_preference() -> None:
    # 32·2⁻²³ = 3.8147e-6: of numbers that add up to 40 a tie is at most 1.526e-4, of 0.5 at most 1.9e-6
    margins = torch.tensor([1.6e-4, 1.5e-4, 0.0, -1.5e-4, -1.6e-4])
    assert fn.preferred(margins, torch.full((5,), 40.0)).tolist() == [1.0, 0.5, 0.5, 0.5, 0.0]
    assert fn.preferred(margins, torch.full((5,), 0.5)).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert fn.preferred(torch.zeros(2, 2), torch.zeros(2, 2)).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("seed", range(5))
def test_sums_of_the_same_numbers_in_another_order_are_a_tie(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values = -10 * torch.rand(8, 300, generator=rng)
    margin = values.sum(1) - values.flip(1).cumsum(1)[:, -1]
    assert margin.any()  # rounding has left something
    scale = 2 * values.abs().sum(1)
    assert fn.preferred(margin, scale).tolist() == [0.5] * 8
    assert fn.preferred(margin + 0.1, scale).tolist() == [1.0] * 8
    assert fn.preferred(-margin, scale).add(fn.preferred(margin, scale)).tolist() == [1.0] * 8


# --- all of them --------------------------------------------------------------------------------------------------


def test_every_place_has_a_seed_of_its_own() -> None:
    assert fn.seeds(3, 7, "step", 2) == [fn.derive(7, "step", 2, place) for place in range(3)]
    assert fn.seeds(2, 7) == fn.seeds(3, 7)[:2] and len({*fn.seeds(9, 7), *fn.seeds(9, 8)}) == 18


def test_the_skew_kl_is_the_kl_to_a_mixture_and_is_bounded() -> None:
    """P = (1/2, 1/2), Q = (1/4, 3/4): KL(P ‖ P/2 + Q/2) = ½·ln(4/3) + ½·ln(4/5)."""
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert fn.skew_kl(p, q, 0.5).item() == pytest.approx(0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5))
    assert fn.skew_kl(p, q, 0.0).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    certain = torch.tensor([1 - 1e-9, 1e-9], dtype=torch.float64).log()
    never = certain.flip(0)
    assert fn.skew_kl(certain, never, 0.1).item() == pytest.approx(math.log(10), rel=1e-6)


def test_every_public_function_is_tested_here() -> None:
    homes = ("alignzoo.functional", "alignzoo.divergences")
    public = [name for name, f in inspect.getmembers(fn, inspect.isfunction) if f.__module__ in homes]
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in public if not name.startswith("_") and f"fn.{name}(" not in here] == []


def test_nothing_is_mutated() -> None:
    batch = toy_batch([1, 2], group=[0, 0], rewards=[1.0, 0.0])
    values = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    kept, mask = values.clone(), batch.mask.clone()
    fn.gae(values, values, batch.mask)
    fn.whiten(values, batch.mask)
    fn.scatter(values[batch.mask], batch.mask)
    fn.group_advantages(replace(batch, rewards=values[:, 1]))
    assert torch.equal(values, kept) and torch.equal(batch.mask, mask)
