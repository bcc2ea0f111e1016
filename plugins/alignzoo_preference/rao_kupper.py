"""Optimizer `dpo-rk`: direct preference optimization with ties, after Rao and Kupper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import TiedPairLoss


@dataclass(frozen=True)
class RaoKupperDPO(TiedPairLoss):
    """Direct preference optimization that learns from ties: two answers are told apart only beyond a threshold.

    -log σ(m - log ν) of a better and a worse answer; -log (ν²-1) - log σ(m - log ν) - log σ(-m - log ν) of a tie;
    m = β·(Δ₁ - Δ₂), Δ = log π(y|x) - log π_ref(y|x).

    Chen et al. 2024 (DPO-RK, arXiv:2409.17431), with their ν; Rao and Kupper 1967. TODO (arXiv:2411.02442) is the
    same with a threshold log ν of 0.5.
    """

    nu: Annotated[float, Gt(1)] = 3.0
    """ν: the larger, the likelier are ties. Two answers as good are a tie with probability (ν-1)/(ν+1)."""

    def win(self, margin: Tensor) -> Tensor:
        return -logsigmoid(margin - math.log(self.nu))

    def tie(self, margin: Tensor) -> Tensor:
        return self.win(margin) + self.win(-margin) - math.log(self.nu**2 - 1)
