"""Rotary position embeddings in fewer passes over memory, with their gradient written down.

transformers' attention modules look their `apply_rotary_pos_emb` up in the file that they are defined in. Where that
function is the common one, ours stands in its place while a model of ours is run, and no longer.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"

Rotate = Callable[..., tuple[Tensor, Tensor]]


@contextmanager
def rotating(model: nn.Module) -> Iterator[None]:
    """Inside, queries and keys of a model in a CPU's memory are turned by `Rotation`."""
    entered = [file for file in {type(module).__module__ for module in model.modules()} if _enter(file)]
    try:
        yield
    finally:
        for file in entered:
            _leave(file)


_at_work: dict[str, tuple[int, Rotate]] = {}
"""By file: how many models of its families are run, and the function that was there before the first of them."""
_changing = threading.Lock()
"""One model may be trained while another one generates in another thread."""


def _enter(file: str) -> bool:
    """Put ours into a file, unless it stands there already; whether the file has the common one."""
    with _changing:
        count, own = _at_work.get(file, (0, getattr(sys.modules[file], NAME, None)))
        if own is None or not _is_common(own):
            return False
        if not count:
            setattr(sys.modules[file], NAME, partial(_rotate, own))
        _at_work[file] = count + 1, own
        return True


def _leave(file: str) -> None:
    with _changing:
        count, own = _at_work.pop(file)
        if count > 1:
            _at_work[file] = count - 1, own
        else:
            setattr(sys.modules[file], NAME, own)


def _rotate(own: Rotate, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
    """As transformers calls it: queries and keys (N, H, T, D), cosines and sines (N, T, D)."""
    plain = q.device.type == "cpu" and q.dtype == cos.dtype and q.shape[-1] == cos.shape[-1]
    if more or named or not plain:
        return own(q, k, cos, sin, *more, **named)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turn = Rotation.apply if torch.is_grad_enabled() else turned
    return turn(q, cos, sin), turn(k, cos, sin)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """y = x·cos + (-x₂, x₁)·sin, with x₁ and x₂ the halves of x (Su et al. 2021, arXiv:2104.09864, eq. 34).

    Rounded as transformers rounds it, to the bit.
    """
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half] -= x[..., half:] * sin[..., :half]
    y[..., half:] += x[..., :half] * sin[..., half:]
    return y


class Rotation(torch.autograd.Function):
    """`turned`; the gradient is turned back: ∂x = ∂y·cos + (∂y₂·sin₂, -∂y₁·sin₁)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = upstream.shape[-1] // 2
        d_x = upstream * cos
        d_x[..., :half] += upstream[..., half:] * sin[..., half:]
        d_x[..., half:] -= upstream[..., :half] * sin[..., :half]
        return d_x, None, None


@cache
@torch.no_grad()
def _is_common(own: Rotate) -> bool:
    """Whether a function of transformers computes that formula: some families pair neighbours instead of halves."""
    q, k, cos, sin = (torch.linspace(-1.0, 1.0 + i, 24).view(1, 3, 8) for i in range(4))
    q, k = q.unsqueeze(1), k.unsqueeze(1)
    try:
        theirs = own(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):  # it is given something else
        return False
    return all(torch.equal(a, b) for a, b in zip(_rotate(own, q, k, cos, sin), theirs, strict=True))
