"""Optimizer `alpha-dpo`: a preference margin that adapts to each pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, TracksGaps


@dataclass(frozen=True)
class AlphaDPO(TracksGaps):
    """Preference optimization without a reference in the reward, but with a margin that the reference sets for each
    pair.

    -log σ(β·(s̄w - s̄l) - γ - β·α·M*), s̄ = (1/|y|)·log π(y|x), M* = (M - mean M)/sd M without gradient,
    M = Δ̄w - Δ̄l, Δ̄ = (1/|y|)·log π(y|x)/π_ref(y|x), its mean and deviation running over minibatches.

    Wu et al. 2024 (arXiv:2410.10148), with α, β and γ as their code has them for Llama 3; α is in units of s̄ there and
    here. Their running statistics begin at 0, these with the first minibatch's.
    """

    beta: Annotated[float, Gt(0)] = 2.5
    """Scale of the length-normalised log-probability, the implicit reward."""
    gamma: Annotated[float, Ge(0)] = 1.5
    """γ: by how much the better answer has to win in implicit reward, on average."""
    alpha: Annotated[float, Ge(0)] = 0.2
    """α: how far the margin follows what the policy has moved from the reference for this pair."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (1.0, 10.0), "alpha": (0.01, 0.3)}
    laws: ClassVar[Mapping[str, str]] = {
        "ratios": "the implicit reward is the policy's own log-probability; the reference is in the margin alone",
        "columns_read": "of two pairs the standardised gaps are 1 and -1, whatever the reference says",
    }

    def cost(self, pairs: Pairs) -> Tensor:
        gap, (better, worse) = self.gaps(pairs).detach(), self.rewards(pairs)
        mean, deviation = self.usual(gap)
        standard = torch.where(deviation > 0, (gap - mean) / deviation, 0.0)
        return -logsigmoid(better - worse - self.gamma - self.beta * self.alpha * standard)

    def gaps(self, pairs: Pairs) -> Tensor:
        better, worse = pairs.log_ratio / pairs.length
        return better - worse

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.logprob / pairs.length

    def rounding(self, pairs: Pairs) -> Tensor:
        return self.rewards(pairs).abs().sum(0)
