"""The algorithm `centred-reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from alignzoo_reward_models.bradley_terry import RewardModel


@dataclass(frozen=True)
class CentredRewardModel(RewardModel):
    """A Bradley-Terry reward model whose scores are pulled towards mean 0.

    -log σ(s_i - s_j) + 0.01·(s_i + s_j)²

    Eisenstein et al. 2023 (arXiv:2312.09244) eq. 2: Bradley-Terry leaves a constant of each prompt open, so that the
    scores of several reward models, or of several prompts, could not be compared.
    """

    centring: Annotated[float, Ge(0)] = 0.01
    """c, which pulls scores towards mean 0."""
