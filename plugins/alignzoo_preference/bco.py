"""Optimizer `bco-pair`: binary classifier optimization on pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ShiftedPairLoss


@dataclass(frozen=True)
class BCO(ShiftedPairLoss):
    """Binary classifier optimization: the implicit reward tells good answers from bad ones, each by itself.

    -log σ(rw - δ) - log σ(-(rl - δ)), r = β·log π(y|x)/π_ref(y|x), δ the running mean of both answers' rewards.

    Jung et al. 2024 (arXiv:2404.04656) sec. 4. TRL's loss_type "bco_pair" leaves δ at 0: `shift_rate=0`.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.001, 0.5)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs) - self.shift
        return -logsigmoid(better) - logsigmoid(-worse)

    def oracle(self) -> Twin | None:
        return (
            None
            if self.shift
            else Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["bco_pair"], "beta": self.beta})
        )
