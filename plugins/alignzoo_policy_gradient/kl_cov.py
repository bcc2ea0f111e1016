"""The optimizer `kl-cov` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.arithmetic import covariance, token_advantages
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class KLCov(GroupRelative):
    """KL-Cov: the tokens whose update would lower the entropy most are held to the old policy.

    1/Σ|y|·Σ -ρ·A + β'·|log ρ| for the r·M of the M tokens with the largest covariance (log π - mean)·(A - mean), -ρ·A
    for the others; A the group's z-score.

    Cui et al. 2025 (arXiv:2505.22617), with the defaults of verl, whose KL to the old policy is |log ρ|.
    There is no clip. The covariance is the minibatch's, which therefore is one micro-batch.
    """

    share: Annotated[float, Gt(0), Le(1)] = 2e-4
    """r: which share of a minibatch's tokens is held; at least one is."""
    old_kl: Annotated[float, Ge(0)] = 1.0
    """β', the weight of the KL to the old policy, of the tokens that are held."""
    couples: ClassVar[str] = "minibatch"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"share": (1e-4, 0.02), "old_kl": (0.1, 10.0)}
    laws: ClassVar[Mapping[str, str]] = {"ratios": "tokens are chosen by log π itself, and not by a ratio"}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        log_ratio, covariances = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask), covariance(batch, out)
        count = max(int(self.share * int(batch.mask.sum())), 1)
        held = torch.zeros_like(batch.mask).flatten()
        held[covariances.flatten().topk(min(count, held.numel())).indices] = True
        held = held.view_as(batch.mask) & batch.mask
        cost = -log_ratio.exp() * token_advantages(batch) + self.old_kl * log_ratio.abs() * held
        return Terms(cost, {"held": held.float()})
