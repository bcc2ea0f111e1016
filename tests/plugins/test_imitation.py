"""Imitation beyond SFT: figures reckoned by hand, and where each is SFT again."""

from __future__ import annotations

import math

import pytest

from alignzoo.testing.world import toy_batch
from alignzoo_imitation.awr import AWR
from alignzoo_imitation.bonbon import BoNBoN
from alignzoo_imitation.dft import DFT
from alignzoo_imitation.filtered import FilteredSFT
from alignzoo_imitation.rwr import RWR
from alignzoo_imitation.sft import SFT
from objectives import answers, objective


def test_the_gradient_of_dft_is_that_of_sft_by_the_probability() -> None:
    said = [-1.0, -2.0, -0.5]
    batch = answers([1.0, 1.0, 1.0], [0, 1, 2])
    plain, dynamic = (objective(o, batch, logprobs=said).gradient["logprobs"].tolist() for o in (SFT(), DFT()))
    assert dynamic == pytest.approx([g * math.exp(x) for g, x in zip(plain, said, strict=True)])
    assert objective(DFT(), batch, logprobs=said).loss == pytest.approx(sum(-x * math.exp(x) for x in said) / 3)


def test_rwr_weighs_by_the_rewards_and_of_a_low_temperature_is_sft() -> None:
    batch = answers([2.0, 0.0, 1.0])
    found = objective(RWR(beta=2.0), batch, logprobs=[-1.0, -2.0, -3.0])
    weights = [math.exp(1), math.exp(0), math.exp(0.5)]
    total = sum(weights)
    assert found.loss == pytest.approx((weights[0] * 1 + weights[1] * 2 + weights[2] * 3) / total)
    cold = objective(RWR(beta=1e-3), batch, logprobs=[-1.0, -2.0, -3.0])
    best = objective(SFT(), batch, logprobs=[-1.0, -2.0, -3.0])
    assert cold.loss == pytest.approx(best.loss) and cold.gradient["logprobs"].tolist() == pytest.approx([-1, 0, 0])


def test_awr_weighs_by_the_advantage_up_to_its_clip() -> None:
    # one token: A = r - V = 1, -1, 5 with β = 1: e, 1/e and 20 for e⁵ = 148
    columns = {"logprobs": [-1.0, -2.0, -3.0], "old_values": [0.0, 1.0, 0.0], "values": [0.0, 1.0, 0.0]}
    found = objective(AWR(value=0.5), answers([1.0, 0.0, 5.0], [0, 1, 2]), **columns)
    assert found.gradient["logprobs"].tolist() == pytest.approx([-math.e / 3, -math.exp(-1) / 3, -20 / 3])
    assert found.gradient["values"].tolist() == pytest.approx([-0.5 / 3, 0.5 / 3, -2.5 / 3])
    # a critic that knows the rewards makes it SFT on everything
    known = {"logprobs": [-1.0, -2.0], "old_values": [1.0, 0.5], "values": [1.0, 0.5]}
    found = objective(AWR(), answers([1.0, 0.5], [0, 1]), **known)
    assert found.gradient["logprobs"].tolist() == pytest.approx([-0.5, -0.5])


def test_filtered_sft_imitates_what_is_good_enough_alone() -> None:
    found = objective(FilteredSFT(), answers([1.0, 0.2, 0.7, 0.0]), logprobs=[-1.0, -2.0, -3.0, -4.0])
    assert found.loss == pytest.approx((1 + 3) / 2)
    assert found.gradient["logprobs"].tolist() == pytest.approx([-0.5, 0, -0.5, 0])
    assert len(FilteredSFT().prepare(toy_batch([2, 3], group=[0, 0], rewards=[0.0, 0.5]))) == 0


@pytest.mark.parametrize(("n", "apart"), [(2, 1.0), (3, 2 * (1 + 1 / 2)), (4, 3 * (1 + 1 / 2 + 1 / 3))])
def test_bonbon_is_ipo_by_how_far_best_and_worst_of_n_are_apart(n: int, apart: float) -> None:
    batch = answers([float(i) for i in range(n)])  # the last is the best, the first the worst
    columns = {"logprobs": [-1.0 - i for i in range(n)], "ref_logprobs": [-1.0] * n}
    margin = -(n - 1.0)
    found = objective(BoNBoN(alpha=0.25), batch, **columns)
    assert found.loss == pytest.approx(0.75 * (margin - apart) ** 2 + 0.25 * n, rel=1e-5)
