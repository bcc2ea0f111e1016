"""The optimizer `dr-grpo`: a setting of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from alignzoo_policy_gradient.arithmetic import Reduction
from alignzoo_policy_gradient.grpo import GRPO


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """GRPO done right: without the standard deviation, and without a completion's own length.

    1/G·Σ_i 1/L·Σ_t -min(ρ·A, clip(ρ, 1±ε)·A), A = r - group mean, L a constant.

    Liu et al. 2025 (arXiv:2503.20783) sec. 3.2, without a KL. Both biases are gone: towards long wrong
    answers, and towards prompts that are too easy or too hard. L scales the loss, no more;
    TRL's is `max_completion_length`.
    """

    kl: Annotated[float, Ge(0)] = 0.0
    """β, the weight of the KL to the reference in the loss; the paper has none."""
    scale: Literal["group", "batch", "none"] = "none"
    """Divide advantages by the standard deviation of the group, of the batch, or not at all."""
    reduction: Reduction = "constant"
    """Mean over rows of the sum over tokens, divided by `length`."""
