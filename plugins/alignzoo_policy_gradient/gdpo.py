"""The optimizer `gdpo` on a page."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ClippedGroup
from alignzoo_policy_gradient.limits import tell_of_one

EPSILON = 1e-4
"""Added to standard deviations, as in TRL."""


def standing(values: FloatN, group: FloatN) -> FloatN:
    """(x - group mean)/(group sd + ε) of what is known, (N,); 0 where it is NaN. sd is unbiased."""
    known = (~values.isnan()).float()
    share = fn.group_mean(known, group).clamp(min=1e-6)
    values = values.nan_to_num(nan=0.0)
    centred = (values - fn.group_mean(values * known, group) / share) * known
    count = (share * fn.group_size(group)).round()
    variance = fn.group_mean(centred**2, group) / share * (count / (count - 1).clamp(min=1))
    return centred / (variance.sqrt() + EPSILON)


@dataclass(frozen=True)
class GDPO(ClippedGroup):
    """Group reward-decoupled normalization: each reward is scaled by itself before they are added.

    The clipped surrogate with A = whitened over the batch of Σ_k w_k·(r_k - group mean)/(group sd + 1e-4).

    Liu et al. 2026 (arXiv:2601.05242), as in TRL (`multi_objective_aggregation="normalize_then_sum"`).
    Rewards of another range than the others no longer drown or vanish, and different mixtures no longer fall together.
    w_k is the recipe's weight; a reward that abstained counts 0. Averaged over all tokens.
    """

    def check(self, context: CheckContext) -> None:
        """Warn where there are no several rewards."""
        tell_of_one(context, "this only scales its advantages over the batch")

    def credit(self, batch: Batch) -> FloatN:
        rewards = batch.sources or {"": batch.rewards}
        total = torch.zeros_like(batch.rewards)
        for name, values in rewards.items():
            total = total + batch.source_weights.get(name, 1.0) * standing(values, batch.group)
        whole = torch.zeros_like(batch.group)
        return (total - fn.group_mean(total, whole)) / (fn.group_std(total, whole) + EPSILON)
