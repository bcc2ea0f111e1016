"""Optimizer `r-dpo`: length-regularised direct preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class RDPO(ReferencePairLoss):
    """Length-regularised direct preference optimization: a better answer that is longer has to win by less.

    -log σ(β·(Δw - Δl) + α·(|yw| - |yl|)), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Park et al. 2024 (arXiv:2403.19159): what maximises E[r - α·|y|] under the KL constraint has r = β·Δ + α·|y|.
    """

    alpha: Annotated[float, Ge(0)] = 0.01
    """α: what each token of an answer costs, in units of reward."""
    laws: ClassVar[Mapping[str, str]] = {
        "other_length": "by how much a better answer has to win depends on both lengths (arXiv:2403.19159)"
    }

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs) + self.alpha * pairs.length
        return -logsigmoid(better - worse)
