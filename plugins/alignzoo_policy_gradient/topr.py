"""The optimizer `topr` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.base import PolicyGradient


@dataclass(frozen=True)
class TOPR(PolicyGradient):
    """Tapered off-policy REINFORCE: good answers are imitated, bad ones let go of as they fade.

    -R·log π(y|x) where R ≥ 0, and -[min(π(y|x)/π_old(y|x), 1)]·R·log π(y|x) elsewhere; R = r - c, [·] without gradient.

    Le Roux et al. 2025 (arXiv:2503.14286): stable far off-policy, without a KL. The ratio is the whole
    completion's; Trinity-RFT's is each token's. The paper's rewards are 1 and -1, with c = 0: for rewards
    of 1 and 0 set c between.
    """

    baseline: float = 0.0
    """c, subtracted from each reward: what is below it counts as bad."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=batch.rewards - self.baseline, weights=fn.sequence_sum(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs.detach(), batch.old_logprobs, batch.mask).sum(1)  # (N,)
        taper = torch.where(batch.advantages >= 0, 1.0, log_ratio.clamp(max=0).exp())
        return Terms(-out.logprobs * fn.token_column(taper * batch.advantages, batch.mask), {"taper": taper})
