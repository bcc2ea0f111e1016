"""Optimizer `sppo-hard`: self-play preference optimization with hard labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class SPPO(ReferencePairLoss):
    """Self-play preference optimization: each log-ratio is regressed on the probability that its answer wins.

    (Δw - ½/β)² + (Δl + ½/β)², Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer; 1/β is the paper's η.

    Wu et al. 2024 (arXiv:2405.00675) eq. 4.7 with win probabilities of 1 and 0, as TRL's loss_type "sppo_hard". The
    paper estimates the probabilities from all pairs of several samples; its rounds are a recipe's rounds.
    """

    beta: Annotated[float, Gt(0)] = 0.001
    """1/η: a winner's log-ratio should come to ½/β nats, a loser's to -½/β."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.001, 0.5)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = pairs.log_ratio
        return (better - 0.5 / self.beta) ** 2 + (worse + 0.5 / self.beta) ** 2

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["sppo_hard"], "beta": self.beta})
