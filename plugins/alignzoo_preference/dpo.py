"""Optimizer `dpo`: direct preference optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class DPO(ReferencePairLoss):
    """Direct preference optimization: the policy is its own reward model.

    -(1-ε)·log σ(β·(Δbest - Δworst)) - ε·log σ(-β·(Δbest - Δworst)), Δ = log π(y|x) - log π_ref(y|x), over pairs.

    Rafailov et al. 2023 (arXiv:2305.18290) eq. 7; ε is the label smoothing of conservative DPO (Mitchell 2023). The
    pair is the best and the worst of a group; with a policy that generates, this is online DPO.
    """

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Assumed share of preferences that are the wrong way round."""
    confidence: str = ""
    """A numeric column of the data: how probable it is that the better answer is better, as soft labels say, from 0.5
    to 1. Then ε is 1 minus it, pair by pair; empty: none."""

    def __post_init__(self) -> None:
        if self.confidence and self.label_smoothing:
            raise ValueError("confidence says of each pair what label_smoothing says of all: give one of the two")

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        margin = better - worse
        smoothing = 1 - pairs.extra[self.confidence][0] if self.confidence else self.label_smoothing
        return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)

    def oracle(self) -> Twin | None:
        return (
            None
            if self.label_smoothing or self.confidence
            else Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["sigmoid"], "beta": self.beta})
        )
