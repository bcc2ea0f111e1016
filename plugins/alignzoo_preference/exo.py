"""Optimizer `exo-pair`: efficient exact optimization on pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class EXO(ReferencePairLoss):
    """Efficient exact optimization: the reverse KL from the policy's preference to the labels', smoothed.

    KL((q, 1-q) ‖ (1-ε, ε)), q = σ(β·(Δw - Δl)), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Ji et al. 2024 (EXO-pref, arXiv:2402.00856) eq. 16 for two answers; direct preference optimization takes the
    forward KL. TRL's loss_type "exo_pair"; there ε must be set, here it is 0.001 where it is not.
    """

    label_smoothing: Annotated[float, Gt(0), Lt(0.5)] = 1e-3
    """ε: how much probability the labels leave to the worse answer. Without any, the KL would be infinite."""
    laws: ClassVar[Mapping[str, str]] = {
        "label_smoothing": "ε is the target of a reverse KL, which is not linear in it (arXiv:2402.00856 eq. 16)"
    }

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        margin = better - worse
        win = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-self.label_smoothing))
        return win + (-margin).sigmoid() * (logsigmoid(-margin) - math.log(self.label_smoothing))

    def oracle(self) -> Twin:
        return Twin(
            "trl",
            "alignzoo_trl.pairs:dpo",
            {"loss_types": ["exo_pair"], "beta": self.beta, "label_smoothing": self.label_smoothing},
        )
