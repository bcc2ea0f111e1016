"""Optimizer `dpo-positive`: direct preference optimization that does not lower the better answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class DPOPositive(ReferencePairLoss):
    """Direct preference optimization with a penalty where the better answer has become less likely than it was.

    -log σ(β·(Δw - Δl - λ·max(0, -Δw))), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Pal et al. 2024 (Smaug, arXiv:2402.13228) eq. 3, with their β and λ.
    """

    beta: Annotated[float, Gt(0)] = 0.3
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    penalty: Annotated[float, Ge(0)] = 50.0
    """λ: what each nat costs that the better answer has lost."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5), "penalty": (5.0, 500.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse - self.penalty * (-better).relu())
