"""The optimizer `rloo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class RLOO:
    """REINFORCE leave-one-out: the others in the group are the baseline.

    -min(ρ·A, clip(ρ, 1±ε)·A), ρ = π(y|x)/π_old(y|x) of the whole completion, averaged over completions;
    A_i = R_i - 1/(k-1)·Σ_{j≠i} R_j and R = r - β·Σ_t (log π_old - log π_ref).

    Ahmadian et al. 2024 (arXiv:2402.14740), after Kool et al. 2019. The paper takes one step per batch, where
    ρ is 1 and its clip idle; ρ and ε are TRL's, for more steps than one. The completion is one action: its length
    divides nothing.
    """

    kl: Annotated[float, Ge(0)] = 0.05
    """β, the weight of the KL to the reference in the reward, in nats per completion."""
    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio of whole completions is clipped to 1 ± clip."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    kl_weight: ClassVar[str] = "kl"
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"} | ({"ref_logprobs"} if self.kl else set()))

    @property
    def prepare_reads(self) -> frozenset[str]:
        return frozenset({"old_logprobs", "ref_logprobs"} if self.kl else ())

    def prepare(self, batch: Batch) -> Batch:
        rewards = batch.rewards
        if self.kl:
            kl = fn.kl_k1(fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask)).sum(1)  # (N,)
            rewards = rewards - self.kl * kl
        return replace(batch, advantages=rewards - fn.leave_one_out(rewards, batch.group))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).sum(1).exp()  # (N,)
        cost = fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip)
        return Terms(cost, {"clip_fraction": ((ratio - 1).abs() > self.clip).float()})
