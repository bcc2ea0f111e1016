"""The optimizer `opo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ScoreFunction


@dataclass(frozen=True)
class OPO(ScoreFunction):
    """On-policy RL with the optimal reward baseline: longer answers say more of what to expect.

    -(r - b)·log π(y|x), b = Σ_j |y_j|·r_j / Σ_j |y_j| over the group.

    Hao et al. 2025 (arXiv:2505.23585): of all baselines b has the least variance of the gradient,
    where the squared gradient of log π grows with the length. Exactly on-policy: one update per batch, no KL, no ratio.
    """

    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0001, 0.1)}

    def credit(self, batch: Batch) -> FloatN:
        length = batch.mask.sum(1).float()  # (N,)
        mean = fn.group_mean(length * batch.rewards, batch.group) / fn.group_mean(length, batch.group).clamp(min=1e-6)
        return batch.rewards - mean
