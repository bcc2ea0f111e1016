"""Optimizer `dpo-d`: direct preference optimization with ties, after Davidson."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from alignzoo_preference.pairs import TiedPairLoss


@dataclass(frozen=True)
class DavidsonDPO(TiedPairLoss):
    """Direct preference optimization that learns from ties: their odds are the geometric mean of both answers'
    strengths.

    -log 1/(1 + e^(-m) + 2ν·e^(-m/2)) of a better and a worse answer; -log 2ν·e^(-m/2)/(1 + e^(-m) + 2ν·e^(-m/2)) of a
    tie; m = β·(Δ₁ - Δ₂), Δ = log π(y|x) - log π_ref(y|x).

    Chen et al. 2024 (DPO-D, arXiv:2409.17431), with their ν; Davidson 1970.
    """

    nu: Annotated[float, Gt(0)] = 1.0
    """ν: the larger, the likelier are ties. Two answers as good are a tie with probability ν/(1+ν)."""

    def win(self, margin: Tensor) -> Tensor:
        tied = math.log(2 * self.nu) - margin / 2
        return torch.stack([torch.zeros_like(margin), -margin, tied]).logsumexp(0)

    def tie(self, margin: Tensor) -> Tensor:
        return self.win(margin) + margin / 2 - math.log(2 * self.nu)
