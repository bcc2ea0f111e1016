"""The optimizer `grpo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo.types import BoolNT, FloatN, FloatNT
from alignzoo_policy_gradient.arithmetic import Reduction, importance_ratio, weighting
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class GRPO(ClippedGroup):
    """Group relative policy optimization: the group is its own baseline, no critic.

    -min(ρ·A, clip(ρ, 1-ε, 1+ε')·A) + β·k3(π ‖ π_ref) per token, A = (r - group mean) / (group sd + 1e-4).

    Shao et al. 2024 (arXiv:2402.03300) eq. 3 with the KL estimate of eq. 4. sd is unbiased and ε = 1e-4, as in TRL.
    """

    kl: Annotated[float, Ge(0)] = 0.04
    """β, the weight of the KL to the reference in the loss. It is not PPO's: compare methods at equal KL."""
    scale: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the group, of the batch, or not at all."""
    reduction: Reduction = "sequence"
    """Mean over rows of the mean over tokens (the paper's), mean over all tokens, or mean over rows of the sum over
    tokens, divided by a constant length or by nothing."""
    length: Annotated[int, Ge(1)] = 1024
    """The length that the reduction `constant` divides by, the most tokens that are generated: it scales the loss."""
    unbiased_kl: bool = False
    """Multiply the KL estimate by ρ, which makes its gradient unbiased off-policy (TRL's default since 1.10)."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (1e-3, 0.2), "clip": (0.05, 0.5)}

    def credit(self, batch: Batch) -> FloatN:
        return fn.group_advantages(batch, scale=self.scale)

    def weigh(self, mask: BoolNT) -> FloatNT:
        return weighting(mask, self.reduction, self.length)

    def penalty(self, batch: Batch, out: Forward) -> FloatNT:
        kl = super().penalty(batch, out)
        return kl * importance_ratio(batch, out, self.level) if self.unbiased_kl else kl

    def oracle(self) -> Twin:
        kinds = {"sequence": "grpo", "token": "bnpo", "constant": "dr_grpo", "sum": "luspo"}
        settings: dict[str, Any] = {
            "loss_type": kinds[self.reduction],
            "beta": self.kl,
            "importance_sampling_level": self.level,
        }
        settings |= {"epsilon_low": self.clip, "epsilon_high": self.clip_high or self.clip}
        settings |= {"use_bias_correction_kl": self.unbiased_kl, "max_completion_length": self.length}
        return Twin("trl", "alignzoo_trl.groups:grpo", settings, rows="groups")
