"""The optimizer `reinforce-pp` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.arithmetic import importance_ratio, outside
from alignzoo_policy_gradient.base import PenalizedReward


@dataclass(frozen=True)
class REINFORCEPlusPlus(PenalizedReward):
    """REINFORCE++: no critic, no group; the whole batch is the baseline.

    -min(ρ·A, clip(ρ, 1±ε)·A), averaged over tokens; A_t whitened over the batch's tokens of
    G_t = r - β·Σ_{i≥t} (log π_old - log π_ref), the return from token t on.

    Hu et al. 2025 (arXiv:2501.03262), as in OpenRLHF and verl.
    """

    kl: Annotated[float, Ge(0)] = 0.01
    """β, the weight of the per-token KL in the reward; OpenRLHF's default."""
    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio is clipped to 1 ± clip."""
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """Discount per token."""

    def prepare(self, batch: Batch) -> Batch:
        rewards = fn.at_last_token(batch.rewards, batch.mask) - self.penalty(batch)
        if batch.token_rewards is not None:
            rewards = rewards + batch.token_rewards
        returns = fn.gae(rewards, torch.zeros_like(rewards), batch.mask, gamma=self.gamma, lam=1.0)[1]
        return replace(batch, advantages=fn.whiten(returns, batch.mask), weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = importance_ratio(batch, out)
        cost = fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip)
        return Terms(cost, {"clip_fraction": outside(ratio, self.clip, self.clip)})
