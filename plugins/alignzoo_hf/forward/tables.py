"""The gradients of vocabulary tables, an embedding's and a head's, added straight to what is there already.

Each is as large as the table, and of a small model's weights the table is a quarter: made apart and added by autograd,
two or three of them lie beside the one that stays, in every micro-batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alignzoo.gradients import TorchTraining

_adding = [False]


@contextlib.contextmanager
def adding_up() -> Iterator[None]:
    """Inside, a backward pass adds a table's gradient to its `grad` itself. Only for a pass that is meant to add up:
    whoever asks autograd for a gradient gets it as ever outside."""
    former, _adding[0] = _adding[0], True
    try:
        yield
    finally:
        _adding[0] = former


class TableTraining(TorchTraining):
    """Trains a policy with a vocabulary, without a second gradient of its tables."""

    def backward(self, loss: Tensor) -> None:
        with adding_up():
            super().backward(loss)


def total_of(weight: Tensor) -> tuple[Tensor, bool] | None:
    """A table's own gradient, and whether nothing is in it yet, so that its numbers are of no meaning; None where
    autograd is to add. A GPU's kernels have their own order, and their own memory."""
    if not (_adding[0] and weight.is_leaf and weight.requires_grad and type(weight) is nn.Parameter):
        return None
    if weight.device.type != "cpu":
        return None
    first = weight.grad is None
    if weight.grad is None:
        weight.grad = torch.empty_like(weight)
    return weight.grad, first


def embed(self: Any, ids: Tensor) -> Tensor:
    """An embedding's forward."""
    if not (torch.is_grad_enabled() and self.weight.requires_grad and self.weight.device.type == "cpu"):
        own: Tensor = type(self).forward(self, ids)
        return own
    found: Tensor = Embedded.apply(self.weight, ids, -1 if self.padding_idx is None else self.padding_idx)
    return found


def is_plain(module: nn.Module) -> bool:
    """Whether a module is an embedding and no more."""
    plain = type(module) is nn.Embedding and module.weight.device.type == "cpu"
    return plain and module.max_norm is None and not module.sparse and not module.scale_grad_by_freq


class Embedded(torch.autograd.Function):
    """The rows of a table; the padding's row gets no gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(weight, ids)
        ctx.padding = padding
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        weight, ids = ctx.saved_tensors
        total = total_of(weight)
        if total is None:
            plain = torch.ops.aten.embedding_dense_backward(upstream, ids, weight.shape[0], ctx.padding, False)
            return plain, None, None
        known, first = total
        if first:
            known.zero_()
        rows, upstream = ids.reshape(-1), upstream.reshape(-1, upstream.shape[-1])
        kept = rows != ctx.padding
        known.index_add_(0, rows[kept], upstream[kept].to(known.dtype))
        return None, None, None
