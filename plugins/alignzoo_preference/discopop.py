"""Optimizer `discopop`: discovered preference optimization."""

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
class DiscoPOP(ReferencePairLoss):
    """Discovered preference optimization: a logistic loss that turns into an exponential one, found by a language
    model.

    -(1-g)·log σ(m) + g·e^(-m), g = σ(m/τ), m = β·(Δw - Δl), Δ = log π(y|x) - log π_ref(y|x) of both answers.

    Lu et al. 2024 (arXiv:2406.08414) eq. 5; TRL's loss_type "discopop", but that g·e^(-m) is one exponential here,
    which stays finite where e^(-m) alone does not.
    """

    beta: Annotated[float, Gt(0)] = 0.05
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    tau: Annotated[float, Gt(0)] = 0.05
    """τ: how sharply one loss turns into the other round a margin of 0."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5)}

    laws: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("prefers_better", "every_token", "ranking", "better_rises"),
        "the loss that was found rises with the margin round 0, where a policy starts (arXiv:2406.08414 sec. 5)",
    )

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        margin = better - worse
        logistic = -(-margin / self.tau).sigmoid() * logsigmoid(margin)
        return logistic + (logsigmoid(margin / self.tau) - margin).exp()

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["discopop"], "beta": self.beta, "tau": self.tau})
