"""Small batches of preference pairs, and what an optimizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing import toy_batch

Answer = tuple[Sequence[float], Sequence[float]]
"""The log-probabilities of an answer's tokens: the policy's, and the reference's."""

GOOD: Answer = ([-1.0, -0.5], [-1.2, -0.8])
"""log π = -1.5 over 2 tokens, log π/π_ref = +0.5."""
BAD: Answer = ([-2.0], [-1.0])
"""log π = -2.0 over 1 token, log π/π_ref = -1.0."""


def batch_of(*pairs: Sequence[Answer], scores: Sequence[float] = (1.0, 0.0), **columns: Sequence[float]) -> Any:
    """Groups of answers, the best first, as a batch with its reference; and the policy's answer, as a leaf."""
    answers = [answer for pair in pairs for answer in pair]
    group = [place for place, pair in enumerate(pairs) for _ in pair]
    batch = toy_batch([len(a[0]) for a in answers], group=group, rewards=list(scores) * len(pairs))
    laid = [fn.scatter(torch.tensor([x for a in answers for x in a[side]]), batch.mask) for side in (0, 1)]
    more = {name: fn.scatter(torch.tensor(values), batch.mask) for name, values in columns.items()}
    return replace(batch, ref_logprobs=laid[1]).answered(more), laid[0].requires_grad_(True)


def costs(optimizer: Any, *pairs: Sequence[Answer], **options: Any) -> list[float]:
    """What each of these pairs costs."""
    batch, logprobs = batch_of(*pairs, **options)
    terms = optimizer.loss(optimizer.prepare(batch), Forward(logprobs=logprobs))
    return [float(each) for each in terms.loss.detach()[0::2]]


def random_batch(lengths: Sequence[int], *, seed: int = 0, spread: float = 1.0) -> tuple[Batch, Tensor]:
    """Pairs of answers of these lengths whose log-probabilities have moved from the reference's; and the policy's."""
    batch = toy_batch(
        lengths, group=[row // 2 for row in range(len(lengths))], rewards=[1.0, 0.0] * (len(lengths) // 2)
    )
    rng = torch.Generator().manual_seed(seed)
    ref = -3 * torch.rand(batch.mask.shape, generator=rng)
    moved = ref + spread * torch.randn(batch.mask.shape, generator=rng)
    batch = replace(batch, ref_logprobs=torch.where(batch.mask, ref, 0.0))
    return batch, torch.where(batch.mask, moved.clamp(max=-1e-3), 0.0)


def objective(optimizer: Any, batch: Batch, logprobs: Tensor, **answers: Tensor) -> tuple[float, Tensor]:
    """Σ weights·terms / N and its gradient in the log-probabilities of the batch's own rows."""
    leaf = logprobs.clone().requires_grad_(True)
    prepared = optimizer.prepare(batch)
    terms = optimizer.loss(prepared, Forward(logprobs=leaf[prepared.row], answers=answers))
    loss = fn.weigh(terms.loss, prepared.weights, prepared.mask)
    (loss / len(prepared)).backward()
    assert leaf.grad is not None
    return float(loss.detach()) / len(prepared), leaf.grad
