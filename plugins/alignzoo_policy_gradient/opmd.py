"""The optimizer `opmd` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class OPMD(GroupRelative):
    """Online policy mirror descent: regression onto the best policy near the old one.

    -(r - r̄)·log π(y|x) + τ/2·(log π(y|x) - log π_old(y|x))², r̄ the group's mean.

    Kimi k1.5 (arXiv:2501.12599) eq. 3, the gradient of (r - r̄ - τ·log π/π_old)²/(2τ): right off-policy without a ratio.
    Trinity-RFT's `opmd`, whose code was read, has the square replaced by a factor 1/(1 + τ), right at first alone.
    """

    temperature: Annotated[float, Gt(0)] = 1.0
    """τ: the larger, the nearer to the old policy each step stays, in reward per nat."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"temperature": (0.01, 10.0)}

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=self.credit(batch))

    def credit(self, batch: Batch) -> FloatN:
        return batch.rewards - fn.group_mean(batch.rewards, batch.group)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        moved = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).sum(1)  # (N,)
        return Terms(-batch.advantages * moved + self.temperature / 2 * moved**2)
