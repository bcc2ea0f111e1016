"""The optimizer `gfpo-efficiency` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from alignzoo import Batch
from alignzoo.types import FloatN
from alignzoo_policy_gradient.gfpo import GFPO


@dataclass(frozen=True)
class GFPOEfficiency(GFPO):
    """GFPO by token efficiency: of many answers, those with the most reward per token are learnt from.

    The k answers of each group with the largest r/|y|.

    Shrivastava et al. 2025 (arXiv:2508.09726), "token efficiency". Long answers stay where they earn it. Where answers
    are right or wrong, the right ones come first, so that a group with k of them keeps no wrong one and teaches
    nothing: `keep` has to be larger than the right answers that a group is expected to have.
    """

    laws: ClassVar[Mapping[str, str]] = {
        **GFPO.laws,
        "baseline": "a reward per token changes its order when rewards are shifted",
    }

    def order(self, batch: Batch) -> FloatN:
        return -batch.rewards / batch.mask.sum(1).clamp(min=1)
