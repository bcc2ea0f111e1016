"""The optimizer `maxrl` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ScoreFunction


@dataclass(frozen=True)
class MaxRL(ScoreFunction):
    """Maximum likelihood reinforcement learning: the gradient of log P(success), not of P(success).

    -(r - r̄)/r̄·log π(y|x), r̄ the group's mean; 0 for a group without success.

    arXiv:2602.02710. Rewards are 0 or 1, or in between: r̄ estimates the chance of success, and dividing by it gives
    hard prompts the weight that likelihood gives them. A group of one success in n has the success raised by n - 1.
    """

    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0001, 0.1)}
    laws: ClassVar[Mapping[str, str]] = {"baseline": "it divides by the mean reward, which is a chance of success"}

    def credit(self, batch: Batch) -> FloatN:
        mean = fn.group_mean(batch.rewards, batch.group)
        return torch.where(mean > 0, (batch.rewards - mean) / mean.clamp(min=1e-6), 0.0)
