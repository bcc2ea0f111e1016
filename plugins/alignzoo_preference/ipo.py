"""Optimizer `ipo`: identity preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class IPO(ReferencePairLoss):
    """Identity preference optimization: a preferred answer leads by a fixed margin, no less and no more.

    (Δ̄w - Δ̄l - 1/(2β))², Δ̄ = (1/|y|)·log π(y|x)/π_ref(y|x) of the better and the worse answer.

    Azar et al. 2023 (arXiv:2310.12036) eq. 17, where β is called τ. There Δ is a sum over tokens; TRL divides it by the
    length, as the authors say that they did for their results, and so does this. `length_normalised=False` is eq. 17.
    """

    length_normalised: bool = True
    """Whether the log-ratios are means over an answer's tokens; otherwise they are sums."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs) / self.beta
        return (better - worse - 1 / (2 * self.beta)) ** 2

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * (pairs.log_ratio / pairs.length if self.length_normalised else pairs.log_ratio)

    def oracle(self) -> Twin | None:
        return (
            Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["ipo"], "beta": self.beta})
            if self.length_normalised
            else None
        )
