"""The optimizer `dro-token` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.types import BoolNT, FloatN, FloatNT
from alignzoo_policy_gradient.arithmetic import token_advantages
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class DROToken(GroupRelative):
    """Direct reward optimization by tokens: a quadratic pull back to the old policy in the place of a clip.

    Σ_t -A·log π + β/2·(log π - log π_old)², A = r - group mean, averaged over completions.

    The form that Tinker offers as `dro`, by its documentation, which was read, with its β; after Richemond et al. 2024
    (arXiv:2405.19107), whose own loss is
    ½(r - V - τ·log π(y|x)/π_ref(y|x))² of whole completions with a learned V: here V is the group's mean, the
    reference the old policy, and the square each token's.
    """

    beta: Annotated[float, Gt(0)] = 0.05
    """β, the weight of the quadratic pull."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.005, 1.0)}

    def credit(self, batch: Batch) -> FloatN:
        return fn.group_advantages(batch, scale="none")

    def weigh(self, mask: BoolNT) -> FloatNT:
        return fn.sequence_sum(mask)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        moved = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        return Terms(-token_advantages(batch) * moved + self.beta / 2 * moved**2)
