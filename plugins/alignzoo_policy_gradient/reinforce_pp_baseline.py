"""The optimizer `reinforce-pp-baseline` on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.arithmetic import kl_k2
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class REINFORCEPlusPlusBaseline(ClippedGroup):
    """REINFORCE++ with a group's mean as baseline, and the batch's spread as scale.

    -min(ρ·A, clip(ρ, 1±ε)·A) + β·½(log π/π_ref)², averaged over tokens; A is r - group mean, whitened over the batch's
    tokens.

    Hu et al. 2025 (arXiv:2501.03262). The KL stands in the loss, by k2, whose gradient is that of the KL.
    """

    kl: Annotated[float, Ge(0)] = 0.001
    """β, the weight of the KL to the reference in the loss."""

    def credit(self, batch: Batch) -> FloatNT:
        centred = batch.rewards - fn.group_mean(batch.rewards, batch.group)
        return fn.whiten(fn.token_column(centred, batch.mask), batch.mask)

    def penalty(self, batch: Batch, out: Forward) -> FloatNT:
        return kl_k2(fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask))
