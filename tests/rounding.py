"""How far apart two computations of the same number may be, by how floating-point numbers are rounded.

Processors differ in the order in which they add, and so in how a sum is rounded: a tolerance that one of them happens
to keep says nothing of another. `bound` follows from the number of additions, the magnitudes and the type alone. It is
wide, so what is exact is computed in float64 as well (`in_float64`), where no wrong term can hide below `EXACT`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode

SURE = 6.0
"""λ: a single number is beyond the bound with a probability of at most 2·exp(-λ²/2) = 3e-8."""
EXACT = 1e-9
"""The share of the largest number by which two computations in float64 throughout may differ."""


def seeds() -> list[int]:
    """The seeds of tests that draw their inputs: 0, or as many as ALIGNZOO_TEST_SEEDS says."""
    return list(range(int(os.environ.get("ALIGNZOO_TEST_SEEDS", "1"))))


def bound(additions: int, magnitude: float | Tensor, dtype: torch.dtype = torch.float32) -> float:
    """How far two computations of one sum may be apart, of so many additions, one after another at most.

    2·λ·√n·u·Σ|xᵢ| with u = ε/2: the probabilistic bound of an inner product (Higham & Mary 2019, SIAM J. Sci. Comput.
    41(5), theorem 3.1; the worst case has n instead of λ√n), twice, as both of them are rounded. `magnitude` is Σ|xᵢ|,
    of a tensor its largest absolute number. For a chain of sums (a network) n is the number along the longest path, and
    the magnitude that of its largest result, as is usual for an error in norm.
    """
    largest = float(magnitude.detach().abs().max()) if isinstance(magnitude, Tensor) else abs(magnitude)
    return 2 * SURE * math.sqrt(max(additions, 1)) * torch.finfo(dtype).eps / 2 * largest


def within(value: float, additions: int, dtype: torch.dtype) -> float:
    """How far another computation of `value` may be from it. Below 1 the magnitude is 1, as it is the sum of numbers
    (log-probabilities, their ratios) that are not smaller: EXACT in float64, `bound` otherwise."""
    size = max(1.0, abs(value))
    return EXACT * size if dtype == torch.float64 else bound(additions, size, dtype)


def close(found: Tensor, expected: Tensor, additions: int, magnitude: float | Tensor | None = None) -> None:
    """Equal but for the rounding of so many additions in float32, and within EXACT in float64."""
    assert found.dtype == expected.dtype
    size = expected if magnitude is None else magnitude
    largest = float(size.detach().abs().max()) if isinstance(size, Tensor) else size
    allowed = within(largest, additions, expected.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)


def depth(config: Any, tokens: int, *, gradient: bool = False) -> int:
    """Additions along the longest path through a transformer: to an answer, or to the gradient of a weight.

    A layer adds over its width (two norms and the projections of queries, of the attention and of the feed-forward),
    a head's width, the positions (softmax and values) and the feed-forward's width; the model's head over the width and
    the vocabulary. A gradient goes through all that three times (forward, and twice back) and over the tokens.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    layer = 5 * width + width // heads + 2 * tokens + inner
    once = config.num_hidden_layers * layer + 2 * width + config.vocab_size
    return 3 * once + tokens if gradient else once


class _InFloat64(TorchFunctionMode):
    """Whatever would be made or converted to float32 is float64: models reduce norms, softmax and rotary angles in
    float32, whatever type their weights have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        if func is Tensor.backward:  # a gradient that is written in Python is computed outside of the mode
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch, "float32", torch.float64)
                patch.setattr(Tensor, "float", Tensor.double)
                return func(*args, **kwargs or {})
        wide = [torch.float64 if each is torch.float32 else each for each in args]
        named = {name: torch.float64 if each is torch.float32 else each for name, each in (kwargs or {}).items()}
        return func(*wide, **named)


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, models are loaded in float64 and everything is computed in it."""
    load = transformers.PreTrainedModel.from_pretrained.__func__
    former = torch.get_default_dtype()

    def loaded(cls: Any, *args: Any, **settings: Any) -> Any:
        return load(cls, *args, **settings | {"dtype": torch.float64})

    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch, _InFloat64():
            patch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(loaded))
            yield
    finally:
        torch.set_default_dtype(former)


@contextmanager
def computing(dtype: torch.dtype) -> Iterator[None]:
    """Inside, everything is computed in float32, as usual, or in float64."""
    with in_float64() if dtype == torch.float64 else nullcontext():
        yield
