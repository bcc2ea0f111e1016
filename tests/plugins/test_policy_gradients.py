"""The policy gradients against numbers computed by hand, and against each other where papers say that they agree."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import alignzoo_policy_gradient
from alignzoo import Batch, Forward, StepReport
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_policy_gradient.a2c import A2C
from alignzoo_policy_gradient.apa import APA
from alignzoo_policy_gradient.asymre import AsymRE
from alignzoo_policy_gradient.cispo import CISPO
from alignzoo_policy_gradient.clip_cov import ClipCov
from alignzoo_policy_gradient.dapo import DAPO
from alignzoo_policy_gradient.dppo import DPPO
from alignzoo_policy_gradient.dppo_kl import DPPOKL
from alignzoo_policy_gradient.dr_grpo import DrGRPO
from alignzoo_policy_gradient.dro_token import DROToken
from alignzoo_policy_gradient.dual_clip_ppo import DualClipPPO
from alignzoo_policy_gradient.entropy_mask import EntropyMask
from alignzoo_policy_gradient.gdpo import GDPO
from alignzoo_policy_gradient.gfpo import GFPO
from alignzoo_policy_gradient.gfpo_efficiency import GFPOEfficiency
from alignzoo_policy_gradient.gpg import GPG
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.gspo import GSPO
from alignzoo_policy_gradient.gspo_token import GSPOToken
from alignzoo_policy_gradient.kl_cov import KLCov
from alignzoo_policy_gradient.lite_ppo import LitePPO
from alignzoo_policy_gradient.luspo import LUSPO
from alignzoo_policy_gradient.m2po import M2PO
from alignzoo_policy_gradient.max_at_k import MaxAtK
from alignzoo_policy_gradient.maxrl import MaxRL
from alignzoo_policy_gradient.opmd import OPMD
from alignzoo_policy_gradient.opo import OPO
from alignzoo_policy_gradient.pass_at_k import PassAtK
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.reinforce import REINFORCE
from alignzoo_policy_gradient.reinforce_pp import REINFORCEPlusPlus
from alignzoo_policy_gradient.reinforce_pp_baseline import REINFORCEPlusPlusBaseline
from alignzoo_policy_gradient.rloo import RLOO
from alignzoo_policy_gradient.sapo import SAPO
from alignzoo_policy_gradient.topr import TOPR
from alignzoo_policy_gradient.vapo import VAPO
from alignzoo_policy_gradient.vc_ppo import VCPPO
from alignzoo_policy_gradient.vespo import VESPO

SOURCE = Path(alignzoo_policy_gradient.__file__).read_text(encoding="utf-8")
TARGETS = re.findall(r'zoo\.optimizer\(\s*"([\w-]+)",\s*"([\w.]+):(\w+)"', SOURCE)

# --- what the tests share ---------------------------------------------------------------------------------------


def rows(lengths: list[int], rewards: list[float], *, group: list[int] | None = None, **columns: Any) -> Batch:
    """Completions of these lengths; each column is one number per completion token, or one for all."""
    batch = toy_batch(lengths, group=group or [0] * len(lengths), rewards=rewards)
    levels: dict[str, Any] = {"old_logprobs": -1.0, "ref_logprobs": -1.0, "old_values": 0.0, **columns}
    laid = {name: laid_out(batch, values) for name, values in levels.items()}
    return batch.answered(laid)


def laid_out(batch: Batch, values: Any) -> Any:
    if isinstance(values, float):
        return values * batch.mask.float()
    return fn.scatter(torch.tensor(values), batch.mask)


def result(optimizer: Any, batch: Batch, logprobs: Any = -1.0, values: Any = 0.0) -> tuple[float, Any]:
    """The objective Σ weights·terms / N of a prepared batch, and its gradient in the log-probabilities of tokens."""
    new = laid_out(batch, logprobs).requires_grad_(True)
    out = Forward(logprobs=new, values=laid_out(batch, values), entropy=batch.mask.float())
    loss = fn.weigh(optimizer.loss(batch, out).loss, batch.weights, batch.mask) / len(batch)
    return float(loss.detach()), torch.autograd.grad(loss, new)[0][batch.mask]


def gradient(optimizer: Any, batch: Batch, logprobs: Any = -1.0) -> Any:
    return result(optimizer, optimizer.prepare(batch), logprobs)[1]


def approx(values: Any) -> Any:
    return pytest.approx(values, rel=1e-4, abs=1e-6)


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


UNEVEN = {"lengths": [3, 1, 2, 4], "rewards": [1.0, 0.0, 0.5, 0.0]}
MOVED = [-0.9, -1.2, -1.0, -0.8, -1.3, -1.1, -1.0, -0.7, -1.05, -0.95]

# --- published equivalences -------------------------------------------------------------------------------------


def test_grpo_without_scale_and_with_one_update_is_reinforce_with_the_groups_mean() -> None:
    batch = rows(**UNEVEN)
    mean = sum(UNEVEN["rewards"]) / 4
    reinforce = REINFORCE(kl=0.0, baseline=mean, weight=1.0)
    same(gradient(GRPO(kl=0.0, scale="none", reduction="sum"), batch), gradient(reinforce, batch))


def test_rloo_is_the_centred_group_times_n_over_n_minus_1() -> None:
    batch = rows(**UNEVEN)
    centred = GRPO(scale="none").prepare(batch).advantages
    same(RLOO(kl=0.0).prepare(batch).advantages, centred * 4 / 3)
    same(gradient(RLOO(kl=0.0), batch), 4 / 3 * gradient(GRPO(kl=0.0, scale="none", reduction="sum"), batch))


def test_gspo_is_grpo_at_ratio_1() -> None:
    batch = rows(**UNEVEN)
    same(gradient(GSPO(), batch), gradient(GRPO(kl=0.0), batch))


def test_gspo_token_without_dense_rewards_is_gspo_anywhere() -> None:
    batch = rows(**UNEVEN)
    wide: dict[str, Any] = {"clip": 0.1, "clip_high": 0.1}
    found = [result(o, o.prepare(batch), MOVED) for o in (GSPO(**wide), GSPOToken(**wide))]
    assert found[0][0] == approx(found[1][0])
    same(found[0][1], found[1][1])


def test_gspo_of_one_token_is_grpo_of_one_token() -> None:
    batch = rows([1] * 4, UNEVEN["rewards"])
    wide: dict[str, Any] = {"kl": 0.0, "clip": 0.2, "clip_high": 0.28}
    found = [result(o, o.prepare(batch), MOVED[:4]) for o in (GSPO(**wide), GRPO(**wide))]
    assert found[0][0] == approx(found[1][0])
    same(found[0][1], found[1][1])


def test_luspo_is_gspo_times_the_length() -> None:
    batch = rows(**UNEVEN)
    lengths = torch.tensor([3.0] * 3 + [1.0] + [2.0] * 2 + [4.0] * 4)
    same(gradient(LUSPO(), batch, MOVED), lengths * gradient(GSPO(), batch, MOVED))


def test_ppo_without_a_critic_is_reinforce_with_the_kl_in_the_reward() -> None:
    # γ = λ = 1, V = 0 and nothing whitened: A_t is the return from t on. With the KL of the first token alone,
    # 0.2·0.5 = 0.1, later tokens have one return, and one-token completions all have REINFORCE's
    critic = PPO(kl=0.5, gamma=1.0, lam=1.0, whiten_advantages=False, value_weight=0.0)
    single = rows([1] * 3, [1.0, 0.0, 2.0], old_logprobs=[-1.0, -0.8, -1.2])
    reinforce = REINFORCE(kl=0.5, baseline=0.0, weight=1.0)
    new = [-1.0, -0.8, -1.2]
    same(gradient(critic, single, new), gradient(reinforce, single, new))
    batch = rows([2], [1.0], old_logprobs=[-0.8, -1.0])
    assert critic.prepare(batch).advantages[0].tolist() == approx([0.0, 0.9, 1.0])


def test_dr_grpo_is_the_centred_sum_over_a_constant_length() -> None:
    batch = rows(**UNEVEN)
    plain = gradient(GRPO(kl=0.0, scale="none", reduction="sum"), batch, MOVED)
    same(gradient(DrGRPO(length=10), batch, MOVED), plain / 10)


def test_dr_grpo_is_rloo_but_for_a_constant() -> None:
    batch = rows(**UNEVEN)
    same(gradient(DrGRPO(length=10), batch), 3 / 4 / 10 * gradient(RLOO(kl=0.0), batch))


def test_cispo_at_ratio_1_is_grpo_by_tokens_and_dapo() -> None:
    batch = rows(**UNEVEN)
    same(gradient(CISPO(), batch), gradient(GRPO(kl=0.0, reduction="token"), batch))
    same(gradient(CISPO(), batch), gradient(DAPO(), batch))


def test_sapo_at_ratio_1_is_grpo() -> None:
    batch = rows(**UNEVEN)
    same(gradient(SAPO(tau=3.0, tau_bad=0.7), batch), gradient(GRPO(kl=0.0), batch))


@pytest.mark.parametrize("optimizer", [VESPO(), DPPO(), DPPOKL(), M2PO(), KLCov(), ClipCov(), EntropyMask(share=1.0)])
def test_weights_and_masks_change_nothing_at_ratio_1(optimizer: Any) -> None:
    batch = rows(**UNEVEN, old_entropy=1.0)
    same(gradient(optimizer, batch), gradient(DAPO(), batch))


def test_dual_clip_is_the_clip_where_the_advantage_is_above_0() -> None:
    ratio = torch.tensor([0.1, 0.9, 1.1, 5.0])
    advantages = torch.ones(4)
    assert torch.equal(DualClipPPO().surrogate(ratio, advantages), PPO().surrogate(ratio, advantages))
    # A = -1: -min(ρ·A, clip(ρ)·A) = 0.8, 0.9, 1.1, 5, the last cut at c = 3
    assert DualClipPPO().surrogate(ratio, -advantages).tolist() == approx([0.8, 0.9, 1.1, 3.0])


def test_opo_with_equal_lengths_has_the_mean_as_baseline() -> None:
    batch = rows([2, 2, 2], [1.0, 0.0, 0.5])
    same(OPO().prepare(batch).advantages, batch.rewards - 0.5)
    same(gradient(OPO(), batch), gradient(GRPO(kl=0.0, scale="none", reduction="sum"), batch))


def test_pass_at_1_is_the_z_score() -> None:
    batch = rows([1] * 4, [1.0, 0.0, 0.0, 1.0])
    # p = 1/2: (1 - p)/√(p(1-p)) = 1 and -p/√(p(1-p)) = -1: with ddof = 0, where GRPO's has 1
    advantages = PassAtK(k=1).prepare(batch).advantages
    assert advantages.tolist() == approx([1.0, -1.0, -1.0, 1.0])
    same(advantages, fn.group_advantages(batch, epsilon=0.0) * math.sqrt(4 / 3))


def test_maxrl_is_the_centred_reward_over_the_chance_of_success() -> None:
    # one success in n: (1 - 1/n)·n = n - 1 up, and -1 for each of the others
    advantages = MaxRL().prepare(rows([1] * 4, [0.0, 1.0, 0.0, 0.0])).advantages
    assert advantages.tolist() == approx([-1.0, 3.0, -1.0, -1.0])
    assert MaxRL().prepare(rows([1] * 2, [0.0, 0.0])).advantages.tolist() == [0.0, 0.0]
    # where every answer is right but one, it is the centred reward over 3/4
    same(
        MaxRL().prepare(rows([1] * 4, [1.0, 1.0, 1.0, 0.0])).advantages * 0.75, torch.tensor([0.25, 0.25, 0.25, -0.75])
    )


def test_gpg_is_the_centred_policy_gradient_where_no_group_is_tied() -> None:
    batch = rows(**UNEVEN)
    same(gradient(GPG(), batch), gradient(GRPO(kl=0.0, scale="none", reduction="token"), batch))


def test_gdpo_of_one_reward_whitens_grpos_advantages() -> None:
    batch = rows([1] * 4, [1.0, 0.0, 0.25, 0.75])
    z = fn.group_advantages(batch)
    same(GDPO().prepare(batch).advantages, z / (z.std() + 1e-4))


def test_opmd_and_dro_start_as_the_policy_gradient() -> None:
    batch = rows(**UNEVEN)
    plain = gradient(GRPO(kl=0.0, scale="none", reduction="sum"), batch)
    same(gradient(OPMD(), batch), plain)
    same(gradient(DROToken(), batch), plain)


def test_asymre_without_a_shift_is_the_centred_group() -> None:
    batch = rows(**UNEVEN)
    same(AsymRE(shift=0.0).prepare(batch).advantages, GRPO(scale="none").prepare(batch).advantages)
    same(AsymRE().prepare(batch).advantages, GRPO(scale="none").prepare(batch).advantages + 0.1)


def test_gfpo_that_keeps_all_is_grpo_by_tokens() -> None:
    batch = rows(**UNEVEN)
    same(gradient(GFPO(), batch, MOVED), gradient(GRPO(kl=0.0, reduction="token"), batch, MOVED))


def test_lite_ppo_in_one_group_is_grpo_by_tokens() -> None:
    batch = rows(**UNEVEN)
    same(gradient(LitePPO(), batch, MOVED), gradient(GRPO(kl=0.0, reduction="token"), batch, MOVED))


def test_reinforce_pp_of_single_tokens_without_a_kl_whitens_the_rewards() -> None:
    # rewards 3, 1, 2: mean 2, variance (1 + 1 + 0)/2 = 1; a single group's mean is the same baseline
    batch = rows([1] * 3, [3.0, 1.0, 2.0])
    for optimizer in (REINFORCEPlusPlus(kl=0.0), REINFORCEPlusPlusBaseline(kl=0.0)):
        assert optimizer.prepare(batch).advantages[batch.mask].tolist() == approx([1.0, -1.0, 0.0])


def test_vc_ppo_with_one_lambda_is_ppo_and_a2c_is_ppo_at_the_start() -> None:
    batch = rows([3, 2], [1.0, 0.0], group=[0, 1], old_values=[0.1, 0.3, 0.2, 0.4, 0.6])
    one, other = VCPPO(lam_critic=0.95).prepare(batch), PPO().prepare(batch)
    same(one.advantages, other.advantages)
    same(one.returns, other.returns)
    plain = PPO(whiten_advantages=False, lam=1.0)
    same(gradient(A2C(), batch), gradient(plain, batch))


# --- baselines, by hand -----------------------------------------------------------------------------------------


def test_opos_baseline_weighs_rewards_by_length() -> None:
    # (3·1 + 1·0) / 4 = 0.75: A = 0.25 and -0.75; each token of a completion has its row's, over N = 2 rows
    batch = rows([3, 1], [1.0, 0.0])
    assert gradient(OPO(), batch).tolist() == approx([-0.125] * 3 + [0.375])


def test_gpg_makes_up_for_tied_groups() -> None:
    # B = 4, of which M = 2 in a tied group: α = 4/2 = 2; A = ±0.5·2; the mean over 4 tokens
    batch = rows([1] * 4, [1.0, 0.0, 1.0, 1.0], group=[0, 0, 1, 1])
    assert gradient(GPG(), batch).tolist() == approx([-0.25, 0.25, 0.0, 0.0])


def test_pass_at_k_by_hand() -> None:
    # n = 4 with b = 3 wrong, k = 2: 1 - R̄ = C(3,2)/C(4,2) = 3/6, σ = 0.5: right (1 - R̄)/σ = 1
    # wrong: (0.5 - C(2,1)/C(3,1))/0.5 = (0.5 - 2/3)/0.5 = -1/3
    advantages = PassAtK(k=2).prepare(rows([1] * 4, [0.0, 1.0, 0.0, 0.0])).advantages
    assert advantages.tolist() == approx([-1 / 3, 1.0, -1 / 3, -1 / 3])
    # b = 1 < k: every pair has a right answer, and nothing is learnt
    assert not PassAtK(k=2).prepare(rows([1] * 4, [1.0, 1.0, 0.0, 1.0])).advantages.any()
    # in a pair, k is 1: p = 1/2
    assert PassAtK(k=4).prepare(rows([1] * 2, [1.0, 0.0])).advantages.tolist() == approx([1.0, -1.0])


def test_max_at_k_credits_the_lead() -> None:
    batch = rows([1] * 5, [1.0, 3.0, 2.5, 2.0, 2.0], group=[0, 0, 0, 1, 1])
    assert MaxAtK().prepare(batch).advantages.tolist() == approx([0.0, 0.5, 0.0, 0.0, 0.0])


def test_gdpo_scales_each_reward_by_itself_and_leaves_out_who_abstained() -> None:
    batch = rows([1] * 4, [0.0] * 4)
    nan = math.nan
    sources = {"a": torch.tensor([100.0, 0.0, nan, nan]), "b": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    batch = replace(batch, sources=sources, source_weights={"a": 2.0, "b": 1.0})
    # a: mean 50, sd √(2·2500/1) = 70.7107: ±0.707106; b: mean 0.5, sd √(4·0.25/3) = 0.577350: ∓0.865875
    # 2a + b: 0.548337, -0.548337, -0.865875, 0.865875; mean 0, sd √(2·(0.300674 + 0.749740)/3) = 0.836825
    expected = [0.548337 / 0.836925, -0.548337 / 0.836925, -0.865875 / 0.836925, 0.865875 / 0.836925]
    assert GDPO().prepare(batch).advantages.tolist() == approx(expected)


def test_gfpo_keeps_the_shortest_or_the_most_efficient_of_each_group() -> None:
    batch = rows([4, 1, 2, 3, 2], [4.0, 0.0, 1.0, 6.0, 1.0], group=[0, 0, 0, 0, 1])
    assert GFPO(keep=2).prepare(batch).row.tolist() == [1, 2, 4]
    assert GFPO(keep=2).prepare(batch).advantages.tolist() == approx([-0.7070068, 0.7070068, 0.0])  # 0.5/0.7072068
    # rewards per token: 1, 0, 0.5, 2
    assert GFPOEfficiency(keep=2).prepare(batch).row.tolist() == [0, 3, 4]


def test_the_entropy_mask_keeps_the_top_share_and_divides_by_all() -> None:
    # 5 tokens, share 0.5: the quantile 0.5 is 0.3, so three stay; A = (1 - 0.5)/(0.707107 + 1e-4) = 0.707007
    batch = rows([3, 2], [1.0, 0.0], old_entropy=[0.1, 0.5, 0.2, 0.9, 0.3])
    expected = [0.0, -0.1414014, 0.0, 0.1414014, 0.1414014]  # 0.707007/5
    assert gradient(EntropyMask(share=0.5), batch).tolist() == approx(expected)


def test_reinforce_pp_pays_the_kl_from_each_token_on() -> None:
    # β = 0.5, k1 = (0.2, -0.4): G = 1 - 0.5·(0.2 - 0.4) = 1.1, 1 - 0.5·(-0.4) = 1.2; the other row 0, 0
    optimizer = REINFORCEPlusPlus(kl=0.5)
    batch = rows([2, 2], [1.0, 0.0], old_logprobs=[-0.8, -1.4, -1.0, -1.0])
    # mean 0.575, deviations 0.525, 0.625, -0.575, -0.575; variance (0.275625 + 0.390625 + 2·0.330625)/3 = 0.4425
    found = optimizer.prepare(batch).advantages[batch.mask].tolist()
    assert found == approx([0.525 / 0.665207, 0.625 / 0.665207, -0.575 / 0.665207, -0.575 / 0.665207])


def test_the_k2_of_reinforce_pp_baseline() -> None:
    # a tied group: no advantage. x = 0.4: ½·0.16·β = 0.08·0.1, with the gradient β·x
    optimizer = REINFORCEPlusPlusBaseline(kl=0.1)
    loss, pull = result(optimizer, optimizer.prepare(rows([1], [1.0])), [-0.6])
    assert (loss, float(pull)) == (approx(0.008), approx(0.04))


# --- ratios, masks and squares, by hand -------------------------------------------------------------------------


def test_topr_imitates_the_good_and_tapers_the_bad() -> None:
    # good: [1]·1, at any ratio; bad: R = -1, ratio of the sequence e^(-0.5-0.5) = e^-1; above 1 it counts 1
    batch = TOPR().prepare(rows([1, 2, 1], [1.0, -1.0, -1.0]))
    pull = result(TOPR(), batch, [-3.0, -1.5, -1.5, -0.5])[1]
    assert (pull * 3).tolist() == approx([-1.0, math.exp(-1), math.exp(-1), 1.0])
    assert TOPR(baseline=0.5).prepare(rows([1, 1], [1.0, 0.0])).advantages.tolist() == [0.5, -0.5]


def test_opmd_and_dro_are_squares() -> None:
    # A = ±0.5, moved by x = 0.3 and 0.1 (sum 0.4) in the first row: gradient -A + τ·0.4, resp. -A + β·x, over 2 rows
    batch = rows([2, 1], [1.0, 0.0])
    new = [-0.7, -0.9, -1.0]
    assert (2 * gradient(OPMD(temperature=0.5), batch, new)).tolist() == approx([-0.3, -0.3, 0.5])
    assert (2 * gradient(DROToken(beta=0.5), batch, new)).tolist() == approx([-0.35, -0.45, 0.5])
    # values: -0.5·0.4 + 0.25·0.16 = -0.16, over 2; -0.5·0.4 + 0.25·(0.09 + 0.01) = -0.175, over 2
    for optimizer, expected in ((OPMD(temperature=0.5), -0.08), (DROToken(beta=0.5), -0.0875)):
        assert result(optimizer, optimizer.prepare(batch), new)[0] == approx(expected)


def test_dppo_masks_by_probability_and_only_outwards() -> None:
    # z = ±0.707007 of two one-token rows. Old 0.5 → 0.8 is 0.3 > 0.2 apart: masked where A > 0, not where A < 0
    batch = rows([1, 1], [1.0, 0.0], old_logprobs=math.log(0.5))
    high, low = math.log(0.8), math.log(0.2)
    assert gradient(DPPO(), batch, [high, high]).tolist() == approx([0.0, 1.6 * 0.707007 / 2])
    assert gradient(DPPO(), batch, [low, low]).tolist() == approx([-0.4 * 0.707007 / 2, 0.0])
    # a rare token's ratio of 10, from 0.01 to 0.1, is within the region; cut at c = 5
    rare = rows([1, 1], [1.0, 0.0], old_logprobs=math.log(0.01))
    assert gradient(DPPO(cap=5.0), rare, [math.log(0.1), math.log(0.01)])[0] == approx(-5 * 0.707007 / 2)


def test_dppo_kl_is_the_binary_kl() -> None:
    # p = 0.5, q = 0.8: 0.5·ln(0.625) + 0.5·ln(2.5) = 0.223144
    p, q = torch.tensor(0.5), torch.tensor(0.8)
    assert float(DPPOKL().distance(q, p)) == approx(0.223144)
    batch = rows([1, 1], [1.0, 0.0], old_logprobs=math.log(0.5))
    new = [math.log(0.8)] * 2
    assert gradient(DPPOKL(divergence=0.22), batch, new)[0] == 0 > gradient(DPPOKL(divergence=0.23), batch, new)[0]


def test_m2po_drops_as_few_of_the_farthest_as_it_must() -> None:
    # A > 0 in the first row: log ρ = 0.1, 0.2, 0.5, -2, of which the last goes inwards and is never dropped.
    # Squares 0.01, 0.04, 0.25: mean 0.1 > 0.04; without the largest 0.025
    batch = rows([4, 1], [1.0, 0.0])
    pull = gradient(M2PO(), batch, [-0.9, -0.8, -0.5, -3.0, -1.0])
    assert (pull == 0).tolist() == [False, False, True, False, False]
    assert pull[0] == approx(-math.exp(0.1) * 0.707007 / 5)
    assert not (gradient(M2PO(moment=0.2), batch, [-0.9, -0.8, -0.5, -3.0, -1.0]) == 0).any()


def test_kl_cov_holds_the_tokens_of_highest_covariance() -> None:
    # A = ±z, z = 0.707007; log π = -0.5, -1.5 | -1, -1, of mean -1: cov = 0.5z, -0.5z, 0, 0: of 4 tokens 1 is held
    batch = rows([2, 2], [1.0, 0.0], old_logprobs=[-0.6, -1.5, -1.0, -1.0])
    loss, pull = result(KLCov(share=0.25, old_kl=0.5), KLCov().prepare(batch), [-0.5, -1.5, -1.0, -1.0])
    # -e^0.1·z + 0.5·0.1; the gradient of |x| is 1
    assert (4 * pull).tolist() == approx([-math.exp(0.1) * 0.707007 + 0.5, -0.707007, 0.707007, 0.707007])
    assert 4 * loss == approx(-math.exp(0.1) * 0.707007 + 0.05 + 0.707007)


def test_clip_cov_leaves_out_tokens_within_the_bounds_and_no_others() -> None:
    # as above: covariances 0.353503, -0.353503, 0, 0
    batch = ClipCov().prepare(rows([2, 2], [1.0, 0.0], old_logprobs=[-0.5, -1.5, -1.0, -1.0]))
    new = [-0.5, -1.5, -1.0, -1.0]
    bounded = ClipCov(low=0.3, high=0.4)
    assert (result(bounded, batch, new)[1] == 0).tolist() == [True, False, False, False]
    assert not (result(ClipCov(), batch, new)[1] == 0).any()
    two = ClipCov(low=-0.1, high=0.1, share=0.25)  # two within the bounds, of which a quarter of the tokens, one, goes
    assert int((result(two, batch, new)[1] == 0).sum()) == 1


def test_cispo_cuts_the_weight_and_keeps_the_gradient() -> None:
    # z = 0.707007; ρ = e^2 = 7.389 counts 5, ρ = e^-1 as it is
    pull = gradient(CISPO(), rows([1, 1], [1.0, 0.0]), [1.0, -2.0])
    assert (2 * pull).tolist() == approx([-5 * 0.707007, math.exp(-1) * 0.707007])


def test_vespos_weight() -> None:
    # W = e^(0.1 + 0.2): φ = e^(3 + 2·0.3 - 3·e^0.3) = e^-0.449576 = 0.637898; the other row is at W = 1
    pull = gradient(VESPO(), rows([2, 1], [1.0, 0.0]), [-0.9, -0.8, -1.0])
    assert (3 * pull).tolist() == approx([-0.637898 * 0.707007] * 2 + [0.707007])


def test_gspo_token_adds_dense_rewards_where_they_are() -> None:
    batch = rows([2, 2], [1.0, 0.0])
    batch = replace(batch, token_rewards=laid_out(batch, [0.0, 0.3, 0.0, 0.0]))
    found = (4 * gradient(GSPOToken(), batch)).tolist()
    assert found == approx([-0.707007, -1.007007, 0.707007, 0.707007])


# --- critics, by hand -------------------------------------------------------------------------------------------


def test_a2c() -> None:
    # V = 0, λ = γ = 1: A = R = 2; policy -2·-1.5 = 3; value ½(0.5 - 2)² = 1.125; entropy 1
    optimizer = A2C(kl=0.0, value_weight=0.5, entropy=0.01)
    assert result(optimizer, optimizer.prepare(rows([1], [2.0])), [-1.5], [0.5])[0] == approx(3 + 0.5625 - 0.01)
    assert "old_logprobs" not in optimizer.needs


def test_apa_is_a_regression() -> None:
    # A = 2 - 0.5 = 1.5, λ = 3: the target 0.5; log ρ = 0.2: (0.2 - 0.5)² = 0.09; value ½(1 - 2)² = 0.5
    optimizer = APA(kl=0.0, temperature=3.0)
    loss, pull = result(optimizer, optimizer.prepare(rows([1], [2.0], old_values=0.5)), [-0.8], [1.0])
    assert (loss, float(pull)) == (approx(0.59), approx(-0.6))
    assert result(optimizer, optimizer.prepare(rows([1], [2.0], old_values=0.5)), [-0.5], [2.0])[0] == approx(0.0)


def test_vc_ppo_has_two_lambdas_and_warms_up_its_critic() -> None:
    # γ = 1, V = (1, 2, 3), reward 4. λ = 0: A = δ = (1, 1, 1). λ_critic = 1: R = 4 everywhere
    optimizer = VCPPO(kl=0.0, lam=0.0, whiten_advantages=False, warmup=1)
    batch = optimizer.prepare(rows([3], [4.0], old_values=[1.0, 2.0, 3.0]))
    assert batch.advantages[batch.mask].tolist() == approx([1.0, 1.0, 1.0])
    assert batch.returns[batch.mask].tolist() == approx([4.0, 4.0, 4.0])
    new = laid_out(batch, -1.0).requires_grad_(True)
    out = Forward(logprobs=new, values=laid_out(batch, [1.0, 2.0, 3.0]), entropy=batch.mask.float())
    # ½(9, 4, 1)·0.1
    assert optimizer.loss(batch, out).loss[batch.mask].tolist() == approx([0.45, 0.2, 0.05])
    after = optimizer.next(StepReport(1, 2, {}))
    assert after == replace(optimizer, warmup=0)
    assert after.loss(batch, out).loss[batch.mask].tolist() == approx([-0.55, -0.8, -0.95])


def test_vapos_lambda_grows_with_the_length() -> None:
    # 1/α = 2: λ = 1 - 2/4 = 0.5 for four tokens, and 0 for two. V = 0 but for the last: δ = (0, 0, 1, 3) and (1, 3)
    optimizer = VAPO(span=2.0, lam=0.0, whiten_advantages=False)
    values = [0.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    batch = optimizer.prepare(rows([4, 2], [4.0, 4.0], group=[0, 1], old_values=values))
    # A = 3, 1 + 0.5·3 = 2.5, 1.25, 0.625
    assert batch.advantages[batch.mask].tolist() == approx([0.625, 1.25, 2.5, 3.0, 1.0, 3.0])
    assert batch.returns[batch.mask].tolist() == approx([4.0] * 6)


def test_vapo_imitates_right_answers_by_their_own_mean() -> None:
    # tokens 1 of a right and 3 of a wrong answer; the NLL is the right one's: 0.1·(2)/1, whatever the wrong one's
    optimizer = VAPO(whiten_advantages=False, value_weight=0.0)
    batch = optimizer.prepare(rows([1, 3], [1.0, 0.0], group=[0, 1]))
    with_it, without = (
        result(o, batch, [-2.0, -1.0, -1.5, -3.0])[0] for o in (optimizer, replace(optimizer, imitation=0.0))
    )
    assert with_it - without == approx(0.2)


def test_a_setting_of_another_is_a_subclass_and_says_so() -> None:
    assert issubclass(DAPO, GRPO) and issubclass(LUSPO, GSPO) and issubclass(DPPOKL, DPPO)
    assert re.search(r'"dapo",\s*"alignzoo_policy_gradient\.dapo:DAPO",[^)]*variant_of="grpo"', SOURCE)


def test_the_documents_list_each_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy-gradients.md").read_text(encoding="utf-8")
    assert not [name for name, *_ in TARGETS if f"`{name}`" not in page]
