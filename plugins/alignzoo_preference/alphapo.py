"""Optimizer `alphapo`: preference optimization with another shape of the reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import PairLoss, Pairs


@dataclass(frozen=True)
class AlphaPO(PairLoss):
    """Preference optimization without a reference, whose reward is a power of the mean probability, not its logarithm.

    -log σ(rw - rl - γ), r = β·(1 - p̄^(-α))/α, p̄ = exp (1/|y|)·log π(y|x) of the better and the worse answer.

    Gupta et al. 2025 (arXiv:2501.03884), with their settings for Mistral-Instruct (table 3); α → 0 is the reward
    β·log p̄. TRL's `CPOTrainer` with the loss_type "simpo" and `alpha`. Exponents are at most 80.
    """

    alpha: float = 0.25
    """α: shape of the reward. Above 0 it is steep for unlikely answers, below 0 for likely ones; 0: the logarithm."""
    beta: Annotated[float, Gt(0)] = 2.5
    """Scale of the implicit reward."""
    gamma: Annotated[float, Ge(0)] = 0.1
    """γ: by how much the better answer has to win in implicit reward."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (1.0, 25.0), "gamma": (0.05, 2.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse - self.gamma)

    def rewards(self, pairs: Pairs) -> Tensor:
        mean = pairs.logprob / pairs.length
        if self.alpha == 0:
            return self.beta * mean
        return -self.beta / self.alpha * (-self.alpha * mean).clamp(max=80).expm1()

    def oracle(self) -> Twin:
        settings = {"loss_type": "simpo", "alpha": self.alpha, "beta": self.beta, "simpo_gamma": self.gamma}
        return Twin("trl", "alignzoo_trl.pairs:cpo", {**settings, "mean": True})
