"""The algorithm `listwise-nca`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn
from alignzoo_unpaired.shared import ListedByReference


@dataclass(frozen=True)
class NCA(ListedByReference):
    """Noise-contrastive alignment: each answer by itself against noise, so that good ones do not lose likelihood.

    -Σ_i [ softmax(r/α)_i · log σ(r̂_i) + 1/n · log σ(-r̂_i) ] over a group of n, r̂ = β·log π(y|x)/π_ref(y|x).

    Chen et al. 2024 (arXiv:2402.05369) algorithm 1, NCA. Where the rewards are equal, the reference is its optimum.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    alpha: Annotated[float, Gt(0)] = 1.0
    """α, the temperature of the rewards: small, only the best answer counts."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.1, 10.0), "beta": (0.001, 0.5)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        target = rankings.group_softmax(batch.rewards / self.alpha, batch.group) * fn.group_size(batch.group)
        reward = self.reward(batch, out)
        return Terms(-target * logsigmoid(reward) - logsigmoid(-reward), self.figures(batch, out))
