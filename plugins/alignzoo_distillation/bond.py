"""Optimizer `bond`: best-of-n distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Tensor

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class BOND:
    """Best-of-n distillation: one sample becomes as good as the best of n.

    (1-β)·KL(π_n ‖ π) + β·KL(π ‖ π_n), with π_n the best of a group of n; summed over tokens, averaged over groups:
    (1-β)·(-log π(best)) + β·(-min(ρ·A, clip(ρ, 1±ε)·A)), A = R - group mean, R = (n-1)·log p̂ - γ·log(π_old/π_ref).
    p̂ is the share of the group whose reward is no larger than this completion's.

    Sessa et al. 2024 (arXiv:2407.14622). Only the order of rewards counts, not their size. Theirs distils from
    a slowly moving anchor; here the anchor is the policy at the start of the step, so that the group is its own
    estimate of the quantiles, and γ holds to the frozen reference instead. A tied group has no best and is dropped.
    """

    backward: Annotated[float, Ge(0), Le(1)] = 0.5
    """β: 0 imitates the best of n alone (covers all of it), 1 seeks its mode alone."""
    kl: Annotated[float, Ge(0)] = 0.0
    """γ, the weight of the KL to the reference in the reward, in nats per completion."""
    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio is clipped to 1 ± clip."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (0.1, 0.4)}
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
        batch = fn.untied(batch)
        share = _quantile(batch)
        rewards = (fn.group_size(batch.group) - 1) * share.log()
        if self.kl:
            kl = fn.kl_k1(fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask)).sum(1)  # (N,)
            rewards = rewards - self.kl * kl
        best = (share == 1).float()
        best = best / fn.group_mean(best, batch.group)  # its mean over a group is 1; equals share it
        advantages = rewards - fn.group_mean(rewards, batch.group)
        extra = {**batch.extra, "best": best}
        return replace(batch, advantages=advantages, weights=fn.sequence_sum(batch.mask), extra=extra)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        advantages = fn.token_column(batch.advantages, batch.mask)
        seeking = fn.clipped_surrogate(ratio, advantages, low=self.clip, high=self.clip)
        covering = -out.logprobs * fn.token_column(batch.extra["best"], batch.mask)
        metrics = {"clip_fraction": ((ratio - 1).abs() > self.clip).float(), "loss/forward": covering}
        return Terms((1 - self.backward) * covering + self.backward * seeking, metrics)


def _quantile(batch: Batch) -> Tensor:
    """The share of each row's group whose reward is no larger than its own, (N,)."""
    same = batch.group[:, None] == batch.group
    return (same & (batch.rewards <= batch.rewards[:, None])).sum(1) / fn.group_size(batch.group)
