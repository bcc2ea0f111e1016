"""Optimizer `cal-dpo`: calibrated direct preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class CalDPO(ReferencePairLoss):
    """Calibrated direct preference optimization: implicit rewards have the size of the true ones, not only their order.

    -log σ(Δw - Δl) + c·((Δw - ½/β)² + (Δl + ½/β)²), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Xiao et al. 2024 (arXiv:2412.14516), with β as in their code; there c is ½. True rewards are taken to be ½ and -½.
    """

    beta: Annotated[float, Gt(0)] = 0.001
    """Strength of the KL constraint: a better answer's log-ratio should come to ½/β nats, a worse one's to -½/β."""
    calibration: Annotated[float, Ge(0)] = 1.0
    """c: weight of the calibration."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.001, 0.5)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = pairs.log_ratio
        distance = (better - 0.5 / self.beta) ** 2 + (worse + 0.5 / self.beta) ** 2
        return -logsigmoid(better - worse) + self.calibration * distance
