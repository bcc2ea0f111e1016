"""The optimizer `clip-cov` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from alignzoo import Batch, Forward, Terms
from alignzoo_policy_gradient.arithmetic import covariance
from alignzoo_policy_gradient.base import ClippedGroup


def lots(batch: Batch) -> Tensor:
    """A number below 2³¹ for each token, which looks random and depends on its row's trained tokens and its place."""
    tokens, place = batch.tokens * batch.mask, batch.mask.cumsum(1)
    row = (tokens * place * 2654435761 % 2147483647).sum(1, keepdim=True)
    return ((row + tokens + 40503 * place) % 2147483647 * 1103515245 + 12345) % 2147483647


@dataclass(frozen=True)
class ClipCov(ClippedGroup):
    """Clip-Cov: a few of the tokens whose update would lower the entropy most get no gradient.

    The clipped surrogate over all tokens, A the group's z-score, without r·M of the M tokens, drawn from those that are
    not clipped and have a covariance (log π - mean)·(A - mean) from `low` to `high`.

    Cui et al. 2025 (arXiv:2505.22617), with the bounds of the authors' code and of verl. The draw is by a
    hash of the row's tokens, so that a loss repeats exactly. The covariance is the minibatch's, which therefore is one
    micro-batch.
    """

    share: Annotated[float, Gt(0), Le(1)] = 2e-4
    """r: which share of a minibatch's tokens is left out; at least one is, where any is within the bounds."""
    low: float = 1.0
    """The least covariance of a token that may be left out."""
    high: float = 5.0
    """The largest covariance of a token that may be left out."""
    couples: ClassVar[str] = "minibatch"
    laws: ClassVar[Mapping[str, str]] = {"ratios": "tokens are chosen by log π itself, and not by a ratio"}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        terms, covariances = super().surrogate(batch, out), covariance(batch, out)
        clipped = terms.metrics["clip_fraction"] > 0
        eligible = (covariances > self.low) & (covariances < self.high) & ~clipped
        count = max(int(self.share * int(batch.mask.sum())), 1)
        drawn = torch.where(eligible, lots(batch), 2**31)
        last = drawn.flatten().kthvalue(min(count, drawn.numel())).values
        left_out = eligible & (drawn <= last)
        return Terms(torch.where(left_out, 0.0, terms.loss), {**terms.metrics, "left_out": left_out.float()})
