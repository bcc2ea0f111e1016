"""Optimizer `apo-zero`: anchored preference optimization, for answers better than the policy's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class APOZero(ReferencePairLoss):
    """Anchored preference optimization where good answers are better than the policy's: it raises them, lowers others.

    1 - σ(rw) + σ(rl), r = β·log π(y|x)/π_ref(y|x) of the better and the worse answer.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266) eq. 7; TRL's loss_type "apo_zero".
    """

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return (-better).sigmoid() + worse.sigmoid()

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["apo_zero"], "beta": self.beta})
