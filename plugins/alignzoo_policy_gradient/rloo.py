"""The optimizer `rloo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo_policy_gradient.arithmetic import outside
from alignzoo_policy_gradient.base import PenalizedReward


@dataclass(frozen=True)
class RLOO(PenalizedReward):
    """REINFORCE leave-one-out: the others in the group are the baseline.

    -min(ρ·A, clip(ρ, 1±ε)·A), ρ = π(y|x)/π_old(y|x) of the whole completion, averaged over completions;
    A_i = R_i - 1/(k-1)·Σ_{j≠i} R_j and R = r - β·Σ_t (log π_old - log π_ref).

    Ahmadian et al. 2024 (arXiv:2402.14740), after Kool et al. 2019. The paper takes one step per batch, where
    ρ is 1 and its clip idle; ρ and ε are TRL's, for more steps than one. The completion is one action: its length
    divides nothing.
    """

    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio of whole completions is clipped to 1 ± clip."""
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        rewards = batch.rewards - self.penalty(batch).sum(1)  # (N,)
        return replace(batch, advantages=rewards - fn.leave_one_out(rewards, batch.group))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).sum(1).exp()  # (N,)
        cost = fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip)
        return Terms(cost, {"clip_fraction": outside(ratio, self.clip, self.clip)})

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.groups:rloo", {"clip": self.clip}, rows="groups")
