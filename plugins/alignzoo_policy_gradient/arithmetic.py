"""The arithmetic that several policy gradients share: pure functions of tensors."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.types import BoolNT, FloatNT

Level: TypeAlias = Literal["token", "sequence"]
Reduction: TypeAlias = Literal["sequence", "token", "constant", "sum"]


def importance_ratio(batch: Batch, out: Forward, level: Level = "token") -> FloatNT:
    """ρ = π/π_old of each token, or its geometric mean over the completion on each of its tokens; 1 off the mask.

    The second is s = exp(1/|y|·Σ_t log ρ_t): Zheng et al. 2025 (arXiv:2507.18071) eq. 7.
    """
    log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
    if level == "sequence":
        log_ratio = fn.token_column((log_ratio * fn.sequence_mean(batch.mask)).sum(1), batch.mask)
    return log_ratio.exp()


def token_advantages(batch: Batch) -> FloatNT:
    """The advantage of each token, (N, T): its row's, where advantages are by row."""
    if batch.advantages.ndim == 2:
        return batch.advantages
    return fn.token_column(batch.advantages, batch.mask)


def weighting(mask: BoolNT, reduction: Reduction, length: int) -> FloatNT:
    """The weights of a reduction by its name; `length` is the constant one's."""
    if reduction == "constant":
        return fn.constant_length(mask, length)
    return {"sequence": fn.sequence_mean, "token": fn.token_mean, "sum": fn.sequence_sum}[reduction](mask)


def outside(ratio: Tensor, low: float, high: float) -> Tensor:
    """1 where a ratio has left [1 - low, 1 + high], 0 elsewhere: the metric `clip_fraction`."""
    return ((ratio < 1 - low) | (ratio > 1 + high)).float()


def kl_k2(log_ratio: Tensor) -> Tensor:
    """k2 = ½x² with x = log π/π_ref, for samples of π: its gradient is that of KL(π ‖ π_ref). Schulman (2020)."""
    return 0.5 * log_ratio**2


def covariance(batch: Batch, out: Forward) -> FloatNT:
    """(log π - mean)·(A - mean) of each token of a minibatch, without gradient; -∞ off the mask.

    Cui et al. 2025 (arXiv:2505.22617): where it is high, the update lowers the entropy.
    """
    logprobs, advantages = out.logprobs.detach(), token_advantages(batch)
    centred = [column - fn.masked_mean(column, batch.mask) for column in (logprobs, advantages)]
    return torch.where(batch.mask, centred[0] * centred[1], -torch.inf)
