"""The optimizer `gspo-token` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.types import BoolNT, FloatNT
from alignzoo_policy_gradient.arithmetic import Level, importance_ratio, outside, token_advantages
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class GSPOToken(ClippedGroup):
    """GSPO by tokens: the sequence's ratio clips, and each token may have an advantage of its own.

    1/G·Σ_i 1/|y|·Σ_t -min(s_t·A_t, clip(s_t, 1-ε, 1+ε')·A_t), s_t = [s]·π_t/[π_t], [·] without gradient;
    A_t = (r - group mean) / (group sd + 1e-4) + the token's dense reward.

    Zheng et al. 2025 (arXiv:2507.18071) eq. 13 and 14. The paper leaves A_t open; without dense rewards it is the
    row's, and value and gradient are GSPO's.
    """

    clip: Annotated[float, Gt(0)] = 3e-4
    """ε, by which the sequence's ratio is clipped below 1."""
    clip_high: Annotated[float, Ge(0)] = 4e-4
    """ε', by which the sequence's ratio is clipped above 1."""
    level: Level = "sequence"
    """Which ratio clips: the sequence's (the paper's), or each token's own."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (1e-4, 1e-2), "clip_high": (1e-4, 1e-2)}

    def credit(self, batch: Batch) -> FloatNT:
        advantages = fn.token_column(fn.group_advantages(batch), batch.mask)
        return advantages if batch.token_rewards is None else advantages + batch.token_rewards

    def weigh(self, mask: BoolNT) -> FloatNT:
        return fn.sequence_mean(mask)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        ratio = importance_ratio(batch, out, self.level).detach()
        ratio = ratio * fn.log_ratio(out.logprobs, out.logprobs.detach(), batch.mask).exp()
        cost = fn.clipped_surrogate(ratio, token_advantages(batch), low=self.clip, high=self.clip_high or self.clip)
        return Terms(cost, {"clip_fraction": outside(ratio, self.clip, self.clip_high or self.clip)})
