"""The optimizer `lite-ppo`: a setting of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from alignzoo_policy_gradient.arithmetic import Reduction
from alignzoo_policy_gradient.grpo import GRPO


@dataclass(frozen=True)
class LitePPO(GRPO):
    """Lite PPO: two techniques out of many, and no critic.

    1/Σ|y|·Σ -min(ρ·A, clip(ρ, 1±ε)·A), A = (r - group mean) / (batch sd + 1e-4).

    Liu et al. 2025, "Tricks or Traps?" (arXiv:2508.08221): the mean of the group, the standard deviation of the
    batch, and a loss by tokens. TRL: `scale_rewards="batch"`, `loss_type="dapo"`.
    """

    kl: Annotated[float, Ge(0)] = 0.0
    """β, the weight of the KL to the reference in the loss; the paper has none."""
    scale: Literal["group", "batch", "none"] = "batch"
    """Divide advantages by the standard deviation of the group, of the batch, or not at all."""
    reduction: Reduction = "token"
    """Mean over all tokens of the batch."""
