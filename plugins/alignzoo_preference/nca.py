"""Optimizer `nca-pair`: noise contrastive alignment on pairs."""

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
class NCA(ReferencePairLoss):
    """Noise contrastive alignment: absolute likelihoods, so that the better answer's does not fall with the worse
    one's.

    -log σ(rw) - ½·log σ(-rw) - ½·log σ(-rl), r = β·log π(y|x)/π_ref(y|x) of the better and the worse answer.

    Chen et al. 2024 (arXiv:2402.05369) sec. 4.1 for two answers; TRL's loss_type "nca_pair". β is the paper's α.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.001, 0.5)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better) - 0.5 * (logsigmoid(-better) + logsigmoid(-worse))

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["nca_pair"], "beta": self.beta})
