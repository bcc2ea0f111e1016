"""The optimizer `asymre` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ScoreFunction


@dataclass(frozen=True)
class AsymRE(ScoreFunction):
    """Asymmetric REINFORCE: off-policy, a baseline below the mean keeps training stable.

    -(r - (r̄ + δ))·log π(y|x), r̄ the group's mean, δ < 0.

    Arnal et al. 2025 (arXiv:2506.20520). With stale completions, lowering the bad ones drives the policy away from its
    data; a lower baseline raises the good ones more than it lowers the bad. δ = -0.1 is the paper's and Trinity-RFT's.
    Tied groups are imitated by -δ.
    """

    shift: float = -0.1
    """δ, added to the group's mean: below 0, good answers count more."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0001, 0.1)}

    def credit(self, batch: Batch) -> FloatN:
        return batch.rewards - fn.group_mean(batch.rewards, batch.group) - self.shift
