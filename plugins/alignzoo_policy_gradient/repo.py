"""The optimizer `repo`: rectified policy optimization."""

from __future__ import annotations

from dataclasses import dataclass

from alignzoo.types import FloatN
from alignzoo_policy_gradient.lagrangian_ppo import LagrangianPPO


@dataclass(frozen=True)
class RePO(LagrangianPPO):
    """Rectified policy optimization: an answer that is safer than it must be does not pay for another that is not.

    As PPO, on the reward (r - λ·max(0, c - d))/(1 + λ); after a step ln λ grows by η·λ times the mean of max(0, c - d).

    Peng et al. 2024 (arXiv:2410.19933): the limit is on each prompt's cost and not on the mean, where cautious answers
    to some prompts buy harmful ones to others. λ never falls, as the rectified excess is never below 0; an answer
    within its limit seeks reward alone.
    """

    def excess(self, cost: FloatN) -> FloatN:
        return (cost - self.limit).clamp(min=0)
