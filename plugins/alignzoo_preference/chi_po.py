"""Optimizer `chi-po`: χ²-preference optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class ChiPO(ReferencePairLoss):
    """χ²-preference optimization: a χ² penalty beside the KL, under which the policy does not overoptimize its reward.

    -log σ(clip(β·φ(uw) - β·φ(ul), ±2R)), φ(u) = u + log u, u = π(y|x)/π_ref(y|x) of the better and the worse answer.

    Huang et al. 2024 (arXiv:2407.13399) algorithm 1, with their clip and their R of 2. So that u does not overflow, log
    u is held in [-88, 20] inside it.
    """

    beta: Annotated[float, Gt(0)] = 0.05
    """Strength of the χ² and KL constraints: the smaller, the further the policy may go from the reference."""
    reward_bound: Annotated[float, Gt(0)] = 2.0
    """R: no true reward is larger. Pairs whose margin is beyond 2R teach nothing more."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid((better - worse).clamp(-2 * self.reward_bound, 2 * self.reward_bound))

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * (pairs.log_ratio.clamp(-88, 20).exp() + pairs.log_ratio)

    def rounding(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.size.sum(0)
