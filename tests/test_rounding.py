"""The tests' own tolerances: the bound by hand, held by sums in any order, and too small to hide a wrong term."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import softmax

from instruction_sets import PARITY
from rounding import EXACT, bound, computing, depth, within


def test_the_bound_by_hand() -> None:
    # 2·λ·√n·u·Σ|x| = 2 · 6 · √100 · 2⁻²⁴ · 3 = 360 · 5.9604645e-8 = 2.1457672e-5
    assert bound(100, 3.0) == pytest.approx(2.1457672e-5, rel=1e-7)
    assert bound(100, torch.tensor([1.0, -3.0])) == bound(100, -3.0) == bound(100, 3.0)
    assert bound(100, 3.0, torch.float64) == pytest.approx(360 * 2.0**-53, rel=1e-12)
    assert within(0.5, 100, torch.float32) == bound(100, 1.0) and within(-3.0, 100, torch.float32) == bound(100, 3.0)
    assert within(3.0, 100, torch.float64) == 3 * EXACT


def test_additions_by_hand() -> None:
    class Config:
        hidden_size, intermediate_size, num_attention_heads, num_hidden_layers, vocab_size = 8, 12, 2, 3, 20

    # a layer: 5·8 + 8/2 + 2·10 + 12 = 76; three of them, twice the width and the vocabulary: 228 + 16 + 20 = 264
    assert depth(Config, 10) == 264
    assert depth(Config, 10, gradient=True) == 3 * 264 + 10


@pytest.mark.parametrize("n", [10, 1000, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_sums_in_any_order_are_within_it(n: int, seed: int) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    size, exact = float(values.abs().sum()), float(values.double().sum())
    one_by_one = float(values.cumsum(0)[-1])
    for found in (float(values.sum()), one_by_one, float(values.flip(0).sum()), float(values.sort().values.sum())):
        assert abs(found - exact) <= bound(n, size) / 2  # half of it: the other sum is exact
    assert bound(n, size) < 1e-3 * size, "what a thousandth more or less would hide"


def test_float64_goes_all_the_way() -> None:
    rng = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    with computing(torch.float64):
        x = wide.clone().requires_grad_()
        converted = (x.float(), x.to(torch.float32), x.to(dtype=torch.float32), softmax(x, -1, dtype=torch.float32))
        assert {each.dtype for each in converted} == {torch.float64}
        assert torch.ones(2).dtype == torch.zeros(2, dtype=torch.float32).dtype == torch.float64
        Doubled.apply(x).sum().backward()
        assert torch.equal(x.grad, torch.full_like(wide, 2 / 3))
    assert wide.float().dtype == torch.ones(2).dtype == torch.float32
    with computing(torch.float32):
        assert wide.float().dtype == torch.float32


class Doubled(torch.autograd.Function):
    """A gradient that is written in Python and computed in float32, as one of TRL's is."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return 2 / 3 * x

    @staticmethod
    def backward(ctx: object, upstream: torch.Tensor) -> torch.Tensor:
        return (upstream * (2 / 3)).float().to(torch.float32)


def test_every_file_that_is_run_under_other_instruction_sets_exists() -> None:
    assert not [each for each in PARITY if not (Path(__file__).parents[1] / each).exists()]
