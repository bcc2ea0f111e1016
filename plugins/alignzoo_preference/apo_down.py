"""Optimizer `apo-down`: anchored preference optimization, for answers worse than the policy's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class APODown(ReferencePairLoss):
    """Anchored preference optimization where even good answers are worse than the policy's: it lowers both, bad ones
    more.

    σ(rw) + 1 - σ(rw - rl), r = β·log π(y|x)/π_ref(y|x) of the better and the worse answer.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266) eq. 8; TRL's loss_type "apo_down".
    """

    laws: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("prefers_better", "every_token"),
        "no answer is raised: the better one is lowered less than the worse (arXiv:2408.06266 eq. 8)",
    )

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return better.sigmoid() + (worse - better).sigmoid()

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["apo_down"], "beta": self.beta})
