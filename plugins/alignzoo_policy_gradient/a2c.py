"""The optimizer `a2c` on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from alignzoo import Batch, Forward, Terms
from alignzoo_policy_gradient.base import ActorCritic


@dataclass(frozen=True)
class A2C(ActorCritic):
    """Advantage actor-critic: the policy gradient with a critic, no ratio and no clip.

    -A·log π + c_v·½(V - R)² - c_e·H, averaged over tokens.

    Mnih et al. 2016 (arXiv:1602.01783) sec. 4, the synchronous form: one update per batch. λ = 1 is the paper's return
    up to the end of the episode; the KL in the reward is RLHF's (arXiv:1909.08593), as in PPO.
    """

    value_weight: Annotated[float, Ge(0)] = 0.5
    """Weight of the value loss."""
    lam: Annotated[float, Ge(0), Le(1)] = 1.0
    """GAE's λ: 0 trusts the critic, 1 the sampled return."""
    entropy: Annotated[float, Ge(0)] = 0.01
    """Weight of the entropy bonus."""

    @property
    def needs(self) -> frozenset[str]:
        return (super().needs - ({"old_logprobs"} if not self.kl else set())) | {"entropy"}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        policy, value = -batch.advantages * out.logprobs, 0.5 * (out.values - batch.returns) ** 2
        cost = policy + self.value_weight * value - self.entropy * out.entropy
        return Terms(cost, {"loss/policy": policy, "loss/value": value})
