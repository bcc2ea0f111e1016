"""Optimizer `orpo`: odds ratio preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import PairLoss, Pairs

SURE = -1e-7
"""A mean log-probability above it is taken for it: the odds of what is certain are infinite."""


@dataclass(frozen=True)
class ORPO(PairLoss):
    """Odds ratio preference optimization: fine-tuning on the better answer, with a weak pull away from the worse one.

    -s̄w - λ·log σ(log o(yw) - log o(yl)), s̄ = (1/|y|)·log π(y|x), o(y) = p̄/(1 - p̄), p̄ = e^s̄.

    Hong et al. 2024 (arXiv:2403.07691) eq. 6 and 7; TRL's `ORPOTrainer`, where λ is called `beta` and the first term
    is a mean over all tokens of the batch's better answers.
    """

    weight: Annotated[float, Gt(0)] = 0.1
    """λ: weight of the odds ratio beside the better answer's negative log-likelihood per token."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.05, 2.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -pairs.logprob[0] / pairs.length[0] - self.weight * logsigmoid(better - worse)

    def rewards(self, pairs: Pairs) -> Tensor:
        mean = (pairs.logprob / pairs.length).clamp(max=SURE)
        near = mean > -0.5  # there 1 - e^s̄ cancels: log(-expm1) keeps its digits, elsewhere log1p does
        small, large = torch.where(near, mean, -0.5), torch.where(near, -0.5, mean)
        return mean - torch.where(near, (-small.expm1()).log(), (-large.exp()).log1p())

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:orpo", {"beta": self.weight}, alike=True)
