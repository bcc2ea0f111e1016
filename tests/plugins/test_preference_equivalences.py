"""What the papers say is the same: one loss at a setting is another, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alignzoo import rankings
from alignzoo_preference.alphapo import AlphaPO
from alignzoo_preference.aot import AOT
from alignzoo_preference.aot_unpaired import UnpairedAOT
from alignzoo_preference.bco import BCO
from alignzoo_preference.beta_dpo import BetaDPO
from alignzoo_preference.cdpo import ConservativeDPO
from alignzoo_preference.cpo import CPO
from alignzoo_preference.cpo_simpo import CPOSimPO
from alignzoo_preference.davidson import DavidsonDPO
from alignzoo_preference.dpo import DPO
from alignzoo_preference.dpo_norm import LengthNormalisedDPO
from alignzoo_preference.dpo_positive import DPOPositive
from alignzoo_preference.dr_dpo import DrDPO
from alignzoo_preference.exo import EXO
from alignzoo_preference.f_dpo import FDPO
from alignzoo_preference.gpo import GPO
from alignzoo_preference.ipo import IPO
from alignzoo_preference.ld_dpo import LDDPO
from alignzoo_preference.mpo import MPO
from alignzoo_preference.npo import NPO
from alignzoo_preference.odpo import ODPO
from alignzoo_preference.r_dpo import RDPO
from alignzoo_preference.rao_kupper import RaoKupperDPO
from alignzoo_preference.robust_dpo import RobustDPO
from alignzoo_preference.rpo import RPO
from alignzoo_preference.simpo import SimPO
from alignzoo_preference.slic import SLiC
from alignzoo_preference.sppo import SPPO
from alignzoo_preference.tpo import TPO
from preference_batches import objective, random_batch

RAGGED, ALIKE, ONE = [4, 2, 3, 5, 6, 1], [4] * 6, [4, 2]
EXACT, NEAR = 1e-6, 2e-3

SAME = {
    "conservative DPO without smoothing is DPO": (ConservativeDPO(label_smoothing=0.0), DPO(), RAGGED, EXACT),
    "conservative DPO is DPO with smoothing": (ConservativeDPO(), DPO(label_smoothing=0.1), RAGGED, EXACT),
    "robust DPO without flips is DPO": (RobustDPO(beta=0.1, label_smoothing=0.0), DPO(), RAGGED, EXACT),
    "f-DPO under the reverse KL is DPO": (FDPO(divergence="reverse_kl"), DPO(), RAGGED, EXACT),
    "an α-divergence near 0 is the reverse KL": (FDPO(divergence="alpha", alpha=1e-4), DPO(), RAGGED, NEAR),
    "an α-divergence near 1 is the forward KL": (
        FDPO(divergence="alpha", alpha=0.99999), FDPO(divergence="forward_kl"), RAGGED, NEAR,
    ),
    "LD-DPO of α = 1 is DPO": (LDDPO(alpha=1.0), DPO(), RAGGED, EXACT),
    "LD-DPO of equal lengths is DPO": (LDDPO(alpha=0.1), DPO(), ALIKE, EXACT),
    "R-DPO of α = 0 is DPO": (RDPO(alpha=0.0), DPO(), RAGGED, EXACT),
    "R-DPO of equal lengths is DPO": (RDPO(alpha=0.7), DPO(), ALIKE, EXACT),
    "DPO-Positive of λ = 0 is DPO": (DPOPositive(beta=0.1, penalty=0.0), DPO(), RAGGED, EXACT),
    "Dr. DPO of a large β' is DPO": (DrDPO(beta_prime=1e4), DPO(), RAGGED, NEAR),
    "β-DPO of α = 0 that keeps all is DPO": (BetaDPO(alpha=0.0, keep=1.0), DPO(), RAGGED, EXACT),
    "ODPO of labels is DPO": (ODPO(), DPO(), RAGGED, EXACT),
    "RPO without likelihood is DPO": (RPO(nll=0.0), DPO(), RAGGED, EXACT),
    "MPO of the comparison alone is DPO": (MPO(preference=1.0, quality=0.0, nll=0.0), DPO(), RAGGED, EXACT),
    "MPO of the classification alone is BCO": (
        MPO(preference=0.0, quality=1.0, nll=0.0, shift=0.2), BCO(beta=0.1, shift=0.2), RAGGED, EXACT,
    ),
    "GPO's logistic function is DPO": (GPO(function="logistic"), DPO(), RAGGED, EXACT),
    "GPO's hinge is SLiC": (GPO(function="hinge"), SLiC(), RAGGED, EXACT),
    "length-normalised DPO of equal lengths is DPO": (LengthNormalisedDPO(beta=0.4), DPO(beta=0.1), ALIKE, EXACT),
    "AOT of one pair is DPO": (AOT(), DPO(), ONE, EXACT),
    "unpaired AOT of one pair is DPO": (UnpairedAOT(), DPO(), ONE, EXACT),
    "DPO-RK of ν near 1 is DPO": (RaoKupperDPO(nu=1 + 1e-5), DPO(), RAGGED, NEAR),
    "DPO-D of ν near 0 is DPO": (DavidsonDPO(nu=1e-5), DPO(), RAGGED, NEAR),
    "SimPO of γ = 0 and equal lengths is CPO's comparison": (
        SimPO(beta=0.4, gamma=0.0), CPO(beta=0.1, nll=0.0), ALIKE, EXACT,
    ),
    "CPO-SimPO without likelihood is SimPO": (CPOSimPO(nll=0.0), SimPO(), RAGGED, EXACT),
    "AlphaPO of α = 0 is SimPO": (AlphaPO(alpha=0.0, beta=2.0, gamma=1.0), SimPO(), RAGGED, EXACT),
    "AlphaPO of α near 0 is SimPO": (AlphaPO(alpha=1e-4, beta=2.0, gamma=1.0), SimPO(), RAGGED, NEAR),
    "TPO without imitation is CPO's comparison": (
        TPO(beta=0.1, nll=0.0), CPO(beta=0.1, nll=0.0), RAGGED, EXACT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_two_names_of_one_loss(name: str) -> None:
    one, other, lengths, tolerance = SAME[name]
    batch, logprobs = random_batch(lengths)
    (found, gradient), (expected, known) = (objective(each, batch, logprobs) for each in (one, other))
    assert float(known.abs().max()) > 1e-3
    assert found == pytest.approx(expected, rel=tolerance)
    torch.testing.assert_close(gradient, known, rtol=tolerance, atol=tolerance * float(known.abs().max()))


def test_ipo_is_gpos_square_but_for_a_factor() -> None:
    # (m - 1)² of m = β·d is β²·(d - 1/β)², and IPO's d - 1/(2τ) has τ = β/2
    batch, logprobs = random_batch(RAGGED)
    squared, _ = objective(GPO(function="squared", beta=0.6), batch, logprobs)
    ipo, _ = objective(IPO(beta=0.3, length_normalised=False), batch, logprobs)
    assert squared == pytest.approx(0.36 * ipo, rel=1e-5)


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    batch, logprobs = random_batch(RAGGED)
    rewards = 0.1 * (logprobs - batch.ref_logprobs).sum(1)
    whole = rankings.plackett_luce(rewards, batch).mean()
    assert objective(DPO(), batch, logprobs)[0] == pytest.approx(float(whole), rel=1e-5)


def at_margin(gap: float, level: float = 0.0) -> tuple[Any, torch.Tensor]:
    """A pair of answers of one token whose log-ratios are level ± gap/2."""
    batch, _ = random_batch([1, 1])
    ratio = torch.tensor([level + gap / 2, level - gap / 2])
    return batch, torch.where(batch.mask, batch.ref_logprobs + ratio[:, None], 0.0)


OPTIMA = [
    (IPO(beta=0.25), 2.0, 0.0),  # d = 1/(2β)
    (SPPO(beta=0.25), 4.0, 0.0),  # ½/β and -½/β
    (EXO(beta=1.0, label_smoothing=0.2), 1.3862944, 0.0),  # σ(d) = 0.8: d = log 4
    (GPO(function="squared", beta=0.5), 2.0, 1.0),
]


@pytest.mark.parametrize(("optimizer", "gap", "level"), OPTIMA, ids=lambda value: str(value)[:12])
def test_an_optimum_is_where_it_is_said_to_be(optimizer: Any, gap: float, level: float) -> None:
    cost, gradient = objective(optimizer, *at_margin(gap, level))
    assert cost == pytest.approx(0.0, abs=1e-5) and float(gradient.abs().max()) < 1e-5
    assert float(objective(optimizer, *at_margin(gap + 1, level))[1].abs().max()) > 1e-3


def test_negative_preference_optimization_begins_as_gradient_ascent() -> None:
    # d/dx -(2/β)·log σ(-β·x) = 2·σ(β·x), which is 1 at x = 0, and everywhere for β → 0
    for optimizer, gap in ((NPO(beta=0.7), 0.0), (NPO(beta=1e-5), -3.0)):
        _, gradient = objective(optimizer, *at_margin(gap))
        assert gradient[1, 1:].tolist() == pytest.approx([1.0], rel=1e-3)
