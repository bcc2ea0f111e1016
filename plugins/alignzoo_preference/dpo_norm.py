"""Optimizer `dpo-norm`: length-normalised direct preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class LengthNormalisedDPO(ReferencePairLoss):
    """Length-normalised direct preference optimization: the implicit reward is a mean over tokens.

    -log σ(β·(Δ̄w - Δ̄l)), Δ̄ = (1/|y|)·log π(y|x)/π_ref(y|x) of the better and the worse answer.

    Lambert et al. 2024 (Tülu 3, arXiv:2411.15124), with their β; TRL's loss_type "sigmoid_norm".
    """

    beta: Annotated[float, Gt(0)] = 5.0
    """Strength of the KL constraint per token: the smaller, the further the policy may go from the reference."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (1.0, 20.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.log_ratio / pairs.length

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["sigmoid_norm"], "beta": self.beta})
