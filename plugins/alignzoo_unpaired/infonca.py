"""The algorithm `infonca`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn
from alignzoo_unpaired.shared import ListedByReference


@dataclass(frozen=True)
class InfoNCA(ListedByReference):
    """Noise-contrastive alignment by InfoNCE: which of a prompt's answers is it, as the rewards have it.

    -Σ_i softmax(r/α)_i · log softmax(r̂)_i over a group, r̂ = β·log π(y|x)/π_ref(y|x).

    Chen et al. 2024 (arXiv:2402.05369) algorithm 1, InfoNCA: rewards as they are, not only their order. Of two answers
    and α towards 0 it is DPO.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    alpha: Annotated[float, Gt(0)] = 1.0
    """α, the temperature of the rewards: small, only the best answer counts."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.1, 10.0), "beta": (0.001, 0.5)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        target = rankings.group_softmax(batch.rewards / self.alpha, batch.group) * fn.group_size(batch.group)
        cost = -target * rankings.group_log_softmax(self.reward(batch, out), batch.group)
        return Terms(cost, self.figures(batch, out))
