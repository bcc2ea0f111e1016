"""Optimizer `beta-dpo`: direct preference optimization with a dynamic β."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, TracksGaps

LEAST = 1e-3
"""β is never below it, as in the authors' code."""


@dataclass(frozen=True)
class BetaDPO(TracksGaps):
    """Direct preference optimization with a β of each minibatch: larger where the pairs are already far apart.

    -log σ(β·M), β = β₀·(1 + α·(mean M - M₀)) without gradient, M = Δw - Δl, Δ = log π(y|x) - log π_ref(y|x), over the
    share of pairs whose M is nearest to its running mean M₀.

    Wu et al. 2024 (arXiv:2407.08639), with the settings of their code. There the pairs that stay are drawn with a
    Gaussian's probabilities round M₀; here they are those that it makes likeliest, as a loss draws nothing.
    """

    alpha: Annotated[float, Ge(0)] = 0.6
    """α: how strongly β follows the minibatch's mean gap."""
    keep: Annotated[float, Gt(0), Le(1)] = 0.8
    """The share of a minibatch's pairs that is trained on, rounded up."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5), "alpha": (0.2, 1.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        gap = self.gaps(pairs)
        usual, _ = self.usual(gap.detach())
        distance = (gap.detach() - usual).abs()
        kept = distance <= distance.kthvalue(math.ceil(self.keep * len(gap))).values
        mean = gap.detach()[kept].mean()
        beta = (self.beta * (1 + self.alpha * (mean - usual))).clamp(min=LEAST)
        return torch.where(kept, -logsigmoid(beta * gap), 0.0) * len(gap) / kept.sum()

    def gaps(self, pairs: Pairs) -> Tensor:
        return pairs.log_ratio[0] - pairs.log_ratio[1]
