"""The optimizer `sapo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo.types import BoolNT, FloatNT
from alignzoo_policy_gradient.arithmetic import Level, importance_ratio, token_advantages
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class SAPO(GroupRelative):
    """Soft adaptive policy optimization: a gate that closes slowly in the place of a clip.

    1/G·Σ_i 1/|y|·Σ_t -4/τ·σ(τ·(ρ - 1))·A, τ is τ₊ where A > 0 and τ₋ elsewhere; A the group's z-score.

    arXiv:2511.20347, as in TRL (`loss_type="sapo"`) and verl. At ρ = 1 the gradient is that of ρ·A; it fades on both
    sides, for bad answers sooner, since lowering a token raises all others.
    """

    tau: Annotated[float, Gt(0)] = 1.0
    """τ₊, how fast the gate of good answers closes."""
    tau_bad: Annotated[float, Gt(0)] = 1.05
    """τ₋, how fast the gate of bad answers closes."""
    level: Level = "token"
    """The ratio of each token (the paper's), or the geometric mean of a sequence's."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"tau": (0.5, 10.0), "tau_bad": (0.5, 10.0)}

    def weigh(self, mask: BoolNT) -> FloatNT:
        return fn.sequence_mean(mask)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        ratio, advantages = importance_ratio(batch, out, self.level), token_advantages(batch)
        tau = torch.where(advantages > 0, self.tau, self.tau_bad)
        return Terms(-4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantages)

    def oracle(self) -> Twin:
        settings: dict[str, Any] = {"loss_type": "sapo", "beta": self.kl, "importance_sampling_level": self.level}
        settings |= {"sapo_temperature_pos": self.tau, "sapo_temperature_neg": self.tau_bad}
        return Twin("trl", "alignzoo_trl.groups:grpo", settings, rows="groups")
