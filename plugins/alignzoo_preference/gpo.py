"""Optimizer `gpo`: generalized preference optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class GPO(ReferencePairLoss):
    """Generalized preference optimization: any convex function of the margin.

    f(m), m = β·(Δw - Δl), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer, with f(m) one of
    log(1 + e^(-m)), e^(-m), max(0, 1-m)², max(0, 1-m), (m-1)² and 1/(1 + e^m)².

    Tang et al. 2024 (arXiv:2402.05749) table 1. Savage's loss, the last one, is not convex. Exponents are at most 80.
    """

    function: Literal["truncated_quadratic", "exponential", "savage", "logistic", "hinge", "squared"] = (
        "truncated_quadratic"
    )
    """f: what a margin costs."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        margin = better - worse
        match self.function:
            case "logistic":
                return softplus(-margin)
            case "exponential":
                return (-margin).clamp(max=80).exp()
            case "truncated_quadratic":
                return (1 - margin).relu() ** 2
            case "hinge":
                return (1 - margin).relu()
            case "squared":
                return (margin - 1) ** 2
            case "savage":
                return (-margin).sigmoid() ** 2
