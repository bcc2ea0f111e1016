"""The optimizer `m2po` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.arithmetic import token_advantages
from alignzoo_policy_gradient.base import GroupRelative


def within_moment(squares: Tensor, limit: float) -> Tensor:
    """Which of these squares (M,) stay, when the largest go until the mean of the rest is at most `limit`."""
    rising = squares.sort().values
    means = rising.cumsum(0) / torch.arange(1, len(rising) + 1, device=rising.device)
    kept = int((means <= limit).sum())  # the means rise, too
    return squares <= rising[kept - 1] if kept else torch.zeros_like(squares, dtype=torch.bool)


@dataclass(frozen=True)
class M2PO(GroupRelative):
    """Second-moment trust policy optimization: the batch is held together, not each token.

    1/Σ|y|·Σ -M·ρ·A; M is 0 for the tokens with the largest (log ρ)², as few as leave the others a mean of at most τ.

    Zheng et al. 2025 (arXiv:2510.01161) algorithm 1. Only tokens that A pushes farther out (A > 0 and ρ > 1, A < 0 and
    ρ < 1) are counted and masked, and none where old and new policy are close: made for stale completions. The mask is
    the minibatch's, which therefore is one micro-batch.
    """

    moment: Annotated[float, Gt(0)] = 0.04
    """τ, the largest mean of (log ρ)² that a minibatch's outward tokens may keep."""
    couples: ClassVar[str] = "minibatch"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"moment": (0.005, 0.5)}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        log_ratio, advantages = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask), token_advantages(batch)
        outward = batch.mask & (log_ratio.detach() * advantages > 0)
        masked = torch.zeros_like(outward)
        masked[outward] = ~within_moment(log_ratio.detach()[outward] ** 2, self.moment)
        cost = torch.where(masked, 0.0, -log_ratio.exp() * advantages)
        return Terms(cost, {"masked_fraction": masked.float()})
