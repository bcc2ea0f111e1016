"""The algorithm `smoothed-reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from alignzoo_reward_models.bradley_terry import RewardModel


@dataclass(frozen=True)
class SmoothedRewardModel(RewardModel):
    """A Bradley-Terry reward model that expects wrong labels.

    -(1-ε)·log σ(s_i - s_j) - ε·log σ(s_j - s_i), ε = 0.1

    Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II" (arXiv:2401.06080), label smoothing. A gap has
    an optimum, log((1-ε)/ε), where that of plain Bradley-Terry grows without end.
    """

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    """ε, the assumed share of preferences that are the wrong way round."""
