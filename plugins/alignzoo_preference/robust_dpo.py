"""Optimizer `robust-dpo`: an unbiased loss under flipped labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class RobustDPO(ReferencePairLoss):
    """Provably robust direct preference optimization: in expectation the loss of labels without noise.

    (-(1-ε)·log σ(m) + ε·log σ(-m))/(1-2ε), m = β·(Δw - Δl), Δ = log π(y|x) - log π_ref(y|x) of both answers.

    Chowdhury et al. 2024 (arXiv:2403.00409) sec. 3.1; TRL's loss_type "robust". Label smoothing adds the loss of the
    reversed pair, this subtracts it.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    """ε: the share of labels that are the wrong way round."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.005, 0.5)}
    laws: ClassVar[Mapping[str, str]] = {
        "label_smoothing": "the loss of the reversed pair is subtracted, to undo the noise (arXiv:2403.00409 sec. 3.1)"
    }

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        as_labelled, reversed_pair = -logsigmoid(better - worse), -logsigmoid(worse - better)
        kept = (1 - self.label_smoothing) * as_labelled - self.label_smoothing * reversed_pair
        return kept / (1 - 2 * self.label_smoothing)

    def oracle(self) -> Twin:
        return Twin(
            "trl",
            "alignzoo_trl.pairs:dpo",
            {"loss_types": ["robust"], "beta": self.beta, "label_smoothing": self.label_smoothing},
        )
