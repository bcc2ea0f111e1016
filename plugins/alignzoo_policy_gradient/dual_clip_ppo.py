"""The optimizer `dual-clip-ppo` on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt

from alignzoo.types import FloatNT
from alignzoo_policy_gradient.ppo import PPO


@dataclass(frozen=True)
class DualClipPPO(PPO):
    """PPO with a second clip: a bad answer that has become likelier by far pulls no longer.

    -max(min(ρ·A, clip(ρ, 1±ε)·A), c·A) where A < 0; as in PPO where A ≥ 0.

    Ye et al. 2019 (arXiv:1912.09729), "dual-clip PPO", with its c = 3: made for completions of an older policy,
    whose ratio has no bound where A < 0.
    """

    dual_clip: Annotated[float, Gt(1)] = 3.0
    """c: where A < 0, a ratio above c has no gradient."""

    def surrogate(self, ratio: FloatNT, advantages: FloatNT) -> FloatNT:
        cost = super().surrogate(ratio, advantages)
        return torch.where(advantages < 0, torch.minimum(cost, -self.dual_clip * advantages), cost)
