"""The optimizer `grpo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class GRPO:
    """Group relative policy optimization: the group is its own baseline, no critic.

    -min(ρ·A, clip(ρ, 1-ε, 1+ε')·A) + β·k3(π ‖ π_ref) per token, A = (r - group mean) / (group sd + 1e-4).

    Shao et al. 2024 (arXiv:2402.03300) eq. 3 with the KL estimate of eq. 4. sd is unbiased and ε = 1e-4, as in TRL.
    """

    kl: Annotated[float, Ge(0)] = 0.04
    """β, the weight of the KL to the reference in the loss. It is not PPO's: compare methods at equal KL."""
    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio is clipped below at 1 - clip, and above at 1 + clip unless `clip_high` says otherwise."""
    clip_high: Annotated[float, Ge(0)] = 0.0
    """The upper clip by itself (DAPO's clip-higher, arXiv:2503.14476); 0: the same as `clip`."""
    scale: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the group, of the batch, or not at all (Dr. GRPO)."""
    reduction: Literal["sequence", "token"] = "sequence"
    """Mean over rows of the mean over tokens (the paper's), or mean over all tokens (DAPO's)."""
    unbiased_kl: bool = False
    """Multiply the KL estimate by ρ, which makes its gradient unbiased off-policy (TRL's default since 1.10)."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "kl"
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"} | ({"ref_logprobs"} if self.kl else set()))

    def prepare(self, batch: Batch) -> Batch:
        weigh = fn.sequence_mean if self.reduction == "sequence" else fn.token_mean
        return replace(batch, advantages=fn.group_advantages(batch, scale=self.scale), weights=weigh(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        advantages = fn.token_column(batch.advantages, batch.mask)
        cost = fn.clipped_surrogate(ratio, advantages, low=self.clip, high=self.clip_high or self.clip)
        clipped = (ratio < 1 - self.clip) | (ratio > 1 + (self.clip_high or self.clip))
        metrics = {"clip_fraction": clipped.float()}
        if self.kl:
            kl = fn.kl_k3(fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask))
            metrics["loss/kl"] = kl * ratio if self.unbiased_kl else kl
            cost = cost + self.kl * metrics["loss/kl"]
        return Terms(cost, metrics)
