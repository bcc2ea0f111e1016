"""Losses over preference pairs against numbers computed by hand.

`GOOD` has log π = -1.5 over 2 tokens and a log-ratio Δ of +0.5, `BAD` log π = -2 over 1 token and Δ = -1. With β = ½
their implicit rewards are 0.25 and -0.5, and the margin is 0.75; -log σ(0.75) = log(1 + e^-0.75) = 0.386871.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import Forward, StepReport
from alignzoo import functional as fn
from alignzoo.testing import toy_batch
from alignzoo_preference.alpha_dpo import AlphaDPO
from alignzoo_preference.alphapo import AlphaPO
from alignzoo_preference.apo_down import APODown
from alignzoo_preference.apo_zero import APOZero
from alignzoo_preference.bco import BCO
from alignzoo_preference.beta_dpo import BetaDPO
from alignzoo_preference.cal_dpo import CalDPO
from alignzoo_preference.chi_po import ChiPO
from alignzoo_preference.cpo import CPO
from alignzoo_preference.davidson import DavidsonDPO
from alignzoo_preference.discopop import DiscoPOP
from alignzoo_preference.dpo_norm import LengthNormalisedDPO
from alignzoo_preference.dpo_positive import DPOPositive
from alignzoo_preference.dr_dpo import DrDPO
from alignzoo_preference.exo import EXO
from alignzoo_preference.f_dpo import FDPO
from alignzoo_preference.gpo import GPO
from alignzoo_preference.ipo import IPO
from alignzoo_preference.ld_dpo import LDDPO
from alignzoo_preference.mallows import MallowsPO
from alignzoo_preference.mpo import MPO
from alignzoo_preference.nca import NCA
from alignzoo_preference.npo import NPO
from alignzoo_preference.odpo import ODPO
from alignzoo_preference.orpo import ORPO
from alignzoo_preference.r_dpo import RDPO
from alignzoo_preference.rao_kupper import RaoKupperDPO
from alignzoo_preference.robust_dpo import RobustDPO
from alignzoo_preference.rpo import RPO
from alignzoo_preference.simper import SimPER
from alignzoo_preference.simpo import SimPO
from alignzoo_preference.slic import SLiC
from alignzoo_preference.sppo import SPPO
from alignzoo_preference.tdpo import TDPO
from alignzoo_preference.tdpo1 import TDPO1
from alignzoo_preference.tpo import TPO
from alignzoo_preference.tr_dpo import TRDPO
from alignzoo_preference.wpo import WPO
from preference_batches import BAD, GOOD, batch_of, costs

PAIR = (GOOD, BAD)
REVERSED = (BAD, GOOD)

LITERALS = [
    # (0.5/2 + 1/1 - 1/(2·0.5))² = 0.25²; with sums (0.5 + 1 - 1)² = 0.5²
    (IPO(beta=0.5), 0.0625),
    (IPO(beta=0.5, length_normalised=False), 0.25),
    # max(0, 1 - 0.75)
    (SLiC(beta=0.5), 0.25),
    # σ(0.75) = 0.679179: 0.679179·(-0.386871 - log 0.9) + 0.320821·(-1.136871 - log 0.1)
    (EXO(beta=0.5, label_smoothing=0.1), 0.182790),
    # -log σ(0.25) - ½·log σ(-0.25) - ½·log σ(0.5) = 0.575939 + 0.412970 + 0.237038
    (NCA(beta=0.5), 1.225948),
    # (0.9·0.386871 - 0.1·1.136871)/0.8
    (RobustDPO(beta=0.5, label_smoothing=0.1), 0.293121),
    # -log σ(0.25 - 0.1) - log σ(0.5 + 0.1) = 0.620957 + 0.437488
    (BCO(beta=0.5, shift=0.1), 1.058445),
    # (0.5 - 1)² + (-1 + 1)²
    (SPPO(beta=0.5), 0.25),
    # 1 - σ(0.25) + σ(-0.5) = 0.437823 + 0.377541; σ(0.25) + 1 - σ(0.75) = 0.562177 + 0.320821
    (APOZero(beta=0.5), 0.815364),
    (APODown(beta=0.5), 0.882998),
    # g = σ(0.75/0.5) = 0.817574: (1 - g)·0.386871 + g·e^-0.75 = 0.070576 + 0.386194
    (DiscoPOP(beta=0.5, tau=0.5), 0.456770),
    # 0.386871 + 1.5/2
    (RPO(beta=0.5), 1.136871),
    # 0.8·0.386871 + 0.2·1.058445 + 0.75
    (MPO(beta=0.5, shift=0.1), 1.271186),
    # -log σ(2·(0.25 + 1)) = -log σ(2.5)
    (LengthNormalisedDPO(beta=2.0), 0.078890),
    # forward KL: ½·(-e^-0.5 + e^1) = 1.055876; JS: ½·(log σ(0.5) - log σ(-1)) = 0.419592;
    # α = ½: ½·((1 - e^-0.25) - (1 - e^0.5))/½ = 0.869921
    (FDPO(divergence="forward_kl", beta=0.5), 0.298539),
    (FDPO(divergence="js", beta=0.5), 0.505199),
    (FDPO(divergence="alpha", alpha=0.5, beta=0.5), 0.349942),
    # ½·(e^0.5 + 0.5) - ½·(e^-1 - 1) = 1.390421, and no more than 2·0.5
    (ChiPO(beta=0.5), 0.222320),
    (ChiPO(beta=0.5, reward_bound=0.5), 0.313262),
    (GPO(function="logistic", beta=0.5), 0.386871),
    (GPO(function="exponential", beta=0.5), 0.472367),  # e^-0.75
    (GPO(function="truncated_quadratic", beta=0.5), 0.0625),  # 0.25²
    (GPO(function="hinge", beta=0.5), 0.25),
    (GPO(function="squared", beta=0.5), 0.0625),
    (GPO(function="savage", beta=0.5), 0.102926),  # σ(-0.75)² = 0.320821²
    # -log σ(0.75 + 0.1·(2 - 1))
    (RDPO(beta=0.5, alpha=0.1), 0.355865),
    # the better answer's tokens have +0.2 and +0.3: ½·(0.2 + 0.4·0.3 + 1) = 0.66
    (LDDPO(beta=0.5, alpha=0.4), 0.416637),
    # -log σ(1.5) + (0.5 - 1)² + (-1 + 1)²
    (CalDPO(beta=0.5), 0.451413),
    # -log σ(0.75 - log 3); -log 1/(1 + e^-0.75 + 2·e^-0.375) = log 2.846946
    (RaoKupperDPO(beta=0.5), 0.882568),
    (DavidsonDPO(beta=0.5), 1.046247),
    # means -0.75 and -2: -log σ(2·1.25 - 1)
    (SimPO(beta=2.0, gamma=1.0), 0.201413),
    # 10·(1 - e^0.1875) = -2.062302, 10·(1 - e^0.5) = -6.487213: -log σ(4.424910 - 0.1)
    (AlphaPO(), 0.013148),
    # -e^-0.75 + e^-2 = -0.472367 + 0.135335
    (SimPER(), -0.337031),
    # -log σ(½·(-1.5 + 2)) + 0.75
    (CPO(beta=0.5), 1.325939),
    # odds 0.472367/0.527633 and 0.135335/0.864665, log of their ratio 1.743940: 0.75 - 0.1·log σ(1.743940)
    (ORPO(), 0.766112),
]


@pytest.mark.parametrize(("optimizer", "expected"), LITERALS, ids=lambda value: type(value).__name__)
def test_a_literal(optimizer: Any, expected: float) -> None:
    assert costs(optimizer, PAIR) == pytest.approx([expected], rel=1e-5, abs=1e-6)


def test_the_better_answer_must_not_fall() -> None:
    # Δw = -1, Δl = 0.5: ½·(-1.5) - 2·½·1 = -1.75
    assert costs(DPOPositive(beta=0.5, penalty=2.0), REVERSED) == pytest.approx([1.910224], rel=1e-5)
    assert costs(DPOPositive(beta=0.5), PAIR) == pytest.approx([0.386871], rel=1e-5)  # where it has risen, nothing


def test_an_offset_by_scores() -> None:
    # 0.75 - ½·log(3 - 1) = 0.403426
    assert costs(ODPO(beta=0.5, alpha=0.5), PAIR, scores=(3.0, 1.0)) == pytest.approx([0.511642], rel=1e-5)


def test_a_robust_mean() -> None:
    # -log of the mean of e^-0.386871 = σ(0.75) and of e^-1.136871 = σ(-0.75), which add up to 1
    assert costs(DrDPO(beta=0.5), PAIR, REVERSED) == pytest.approx([math.log(2)] * 2, rel=1e-5)


def test_a_beta_of_the_minibatch() -> None:
    # gaps 1.5 and -1.5; M₀ = 1 + 2/3·(0 - 1) = 1/3, as (1-½)/(1-½²) = 2/3; the first pair is nearer, and alone kept:
    # β = ½·(1 + 0.6·(1.5 - 1/3)) = 0.85, and it counts twice: -2·log σ(0.85·1.5)
    optimizer = BetaDPO(beta=0.5, keep=0.5, momentum=0.5, gap_mean=1.0, steps_seen=1)
    assert costs(optimizer, PAIR, REVERSED) == pytest.approx([0.492831, 0.0], rel=1e-5)


def test_a_margin_of_each_pair() -> None:
    # gaps ±1.25 per token; running mean 1/3, running deviation 1 + 2/3·0.25 = 7/6: standardised 0.785714, -1.357143
    # -log σ(2·1.25 - 0.5 - 0.4·0.785714) = -log σ(1.685714); -log σ(-2.5 - 0.5 + 0.542857)
    optimizer = AlphaDPO(beta=2.0, gamma=0.5, alpha=0.2, momentum=0.5, gap_mean=1.0, gap_deviation=1.0, steps_seen=1)
    assert costs(optimizer, PAIR, REVERSED) == pytest.approx([0.170006, 2.539349], rel=1e-5)


def test_running_figures_move_with_the_steps() -> None:
    report = StepReport(1, 10, {"gap": 2.0, "gap_square": 5.0, "implicit_reward": 0.3})
    first = AlphaDPO(momentum=0.9).next(report)
    assert (first.gap_mean, first.gap_deviation, first.steps_seen) == pytest.approx((2.0, 1.0, 1))  # √(5 - 2²)
    second = first.next(replace(report, metrics={"gap": 0.1, "gap_square": 0.01}))
    assert second.gap_mean == pytest.approx(2.0 - 1.9 * 0.1 / 0.19)
    assert BCO(shift=0.1).next(report).shift == pytest.approx(0.1 + 0.1 * 0.2)
    idle = replace(report, metrics={})
    assert first.next(idle) == first and BCO(shift=0.1).next(idle) == BCO(shift=0.1)


def test_agreement_weighs_a_pair() -> None:
    # mean entropies 2 and 1, relative to log 1000: w = -0.29·log(1.5/6.907755) = 0.442882; -log σ(0.442882·0.75)
    optimizer = MallowsPO(beta=0.5, vocabulary=1000)
    assert costs(optimizer, PAIR, ref_entropy=[1.5, 2.5, 1.0]) == pytest.approx([0.540795], rel=1e-5)


def test_pairs_weigh_as_the_policy_would_generate_them() -> None:
    # without alignment e^-0.75·e^-2·0.386871; where two samples agree half the time, e^(-0.75 + log 2)·e^(-2 + log 2)
    assert costs(WPO(beta=0.5, alignment="none"), PAIR) == pytest.approx([0.024732], rel=1e-4)
    batch, logprobs = batch_of(PAIR)
    collision = {"collision": torch.where(batch.mask, 0.5, 0.0)}
    terms = WPO(beta=0.5).loss(WPO().prepare(batch), Forward(logprobs=logprobs, answers=collision))
    assert terms.loss.tolist() == pytest.approx([0.098927] * 2, rel=1e-5)


def test_divergences_along_the_answers() -> None:
    # divergences 0.3 and 0.5: ½·(1.5 - 0.5·(0.5 - 0.3)) = 0.7, and with α = 1 it is 0.65
    batch, logprobs = batch_of(PAIR)
    away = fn.scatter(torch.tensor([0.1, 0.2, 0.5]), batch.mask).requires_grad_(True)
    for optimizer, expected, raised in ((TDPO(beta=0.5), 0.403186, 0.0), (TDPO1(beta=0.5), 0.420055, 1.0)):
        terms = optimizer.loss(optimizer.prepare(batch), Forward(logprobs=logprobs, answers={"ref_kl": away}))
        assert terms.loss.tolist() == pytest.approx([expected] * 2, rel=1e-5)
        (pull,) = torch.autograd.grad(terms.loss.sum(), away)
        assert float(pull[1, 1]) > 0 and float(pull[0].abs().sum() > 0) == raised  # the worse answer is drawn home


def test_the_reference_follows() -> None:
    assert [TRDPO(tau=3).follow(step) for step in (1, 2, 3)] == [{}, {}, {"ref": 0.6}]
    assert TRDPO().follow(1) == {"ref": 0.6}


TIES = [
    # -log 8 - log σ(0.75 - log 3) - log σ(-0.75 - log 3) = -2.079442 + 0.882568 + 1.994836
    (RaoKupperDPO(beta=0.5), 0.797963),
    # log 2.846946 + 0.375 - log 2
    (DavidsonDPO(beta=0.5), 0.728099),
]


@pytest.mark.parametrize(("optimizer", "expected"), TIES, ids=lambda value: type(value).__name__)
def test_a_tie_is_learnt_from(optimizer: Any, expected: float) -> None:
    assert costs(optimizer, PAIR, scores=(1.0, 1.0)) == pytest.approx([expected], rel=1e-5)
    batch, logprobs = batch_of(PAIR, scores=(1.0, 1.0))
    terms = optimizer.loss(optimizer.prepare(batch), Forward(logprobs=logprobs))
    terms.loss.sum().backward()
    assert terms.metrics["accuracy"].tolist() == [0.5, 0.5] and terms.metrics["tied"].tolist() == [1.0, 1.0]
    assert float(logprobs.grad[0].sum()) > 0 > float(logprobs.grad[1].sum())  # the first one leads, and is lowered


@pytest.mark.parametrize("optimizer", [RaoKupperDPO(nu=2.0, beta=0.7), DavidsonDPO(nu=2.0, beta=0.7)])
@pytest.mark.parametrize("margin", [-3.0, 0.0, 0.4, 5.0])
def test_win_loss_and_tie_are_all_there_is(optimizer: Any, margin: float) -> None:
    m = torch.tensor([margin], dtype=torch.float64)
    whole = sum(torch.exp(-cost) for cost in (optimizer.win(m), optimizer.win(-m), optimizer.tie(m)))
    assert float(whole) == pytest.approx(1.0)


def test_ties_of_a_larger_group() -> None:
    batch = toy_batch([1, 2, 3, 1, 2, 1], group=[0, 0, 0, 1, 1, 2], rewards=[0.5, 0.5, 0.5, 0.0, 2.0, 1.0])
    pairs = RaoKupperDPO().prepare(batch)
    assert pairs.mask.sum(1).tolist() == [1, 3, 2, 1]  # first and last of the tie; best and worst; nobody to compare
    assert pairs.rewards.tolist() == [0.5, 0.5, 2.0, 0.0]
    assert fn.best_and_worst(batch).rewards.tolist() == [2.0, 0.0]


def test_a_triple() -> None:
    # imitated -1.5 over 2 tokens, preferred -2, worst -4: -log σ(½·2) + 0.75
    third = ([-1.0, -2.0, -1.0], [0.0, 0.0, 0.0])
    batch, logprobs = batch_of((GOOD, BAD, third), scores=(2.0, 1.0, 0.0))
    prepared = TPO(beta=0.5).prepare(batch)
    terms = TPO(beta=0.5).loss(prepared, Forward(logprobs=logprobs))
    assert terms.loss.tolist() == pytest.approx([1.063262] * 3, rel=1e-5)
    pair = TPO().prepare(batch_of(PAIR)[0])
    assert pair.rewards.tolist() == [1.0, 1.0, 0.0]  # of two, the better one is both
    assert len(TPO().prepare(batch_of(PAIR, scores=(1.0, 1.0))[0])) == 0


def test_bad_answers_alone() -> None:
    # -(2/0.5)·log σ(0.5·1) of the answer whose log-ratio is -1; its gradient there is 2·σ(-0.5)
    batch, logprobs = batch_of(PAIR)
    prepared = NPO(beta=0.5).prepare(batch)
    assert prepared.rewards.tolist() == [0.0]
    terms = NPO(beta=0.5).loss(prepared, Forward(logprobs=logprobs[1:]))
    assert terms.loss.tolist() == pytest.approx([1.896308], rel=1e-5)
    terms.loss.sum().backward()
    assert float(logprobs.grad[1].sum()) == pytest.approx(2 * 0.377541, rel=1e-5)


FAR = [
    *(
        APOZero(),
        DiscoPOP(),
        FDPO(divergence="forward_kl"),
        FDPO(divergence="alpha"),
        ChiPO(),
        GPO(function="exponential"),
    ),
    *(RaoKupperDPO(), DavidsonDPO(), DrDPO(), AlphaPO(), ORPO(), SimPER(), EXO()),
]


@pytest.mark.parametrize("optimizer", FAR, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("away", [300.0, -300.0])
def test_far_from_the_reference_all_is_finite(optimizer: Any, away: float) -> None:
    batch, logprobs = batch_of((([-400.0], [-400.0 - away]), ([-400.0, -1e-9], [-400.0 + away, -1e-9])))
    terms = optimizer.loss(optimizer.prepare(batch), Forward(logprobs=logprobs))
    terms.loss.sum().backward()
    assert torch.isfinite(terms.loss).all() and torch.isfinite(logprobs.grad).all()
