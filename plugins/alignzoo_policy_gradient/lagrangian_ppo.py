"""The optimizer `lagrangian-ppo`: Safe RLHF's PPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo_policy_gradient.limits import Limited
from alignzoo_policy_gradient.ppo import PPO


@dataclass(frozen=True)
class LagrangianPPO(Limited, PPO):
    """PPO under a constraint: reward is sought where the mean cost is within its limit.

    As PPO, on the reward (r - λ·(c - d))/(1 + λ); after a step ln λ grows by η·λ·(c̄ - d).

    Dai et al. 2023, Safe RLHF (arXiv:2310.12773) sec. 3.3. Theirs has a critic for reward and one for cost, and
    mixes their advantages; generalised advantages are linear in rewards and values, so that one critic of the mixture
    says the same once it has learnt. c̄ is a step's mean, theirs a moving one.
    """

    laws: ClassVar[Mapping[str, str]] = {
        "every_token": "its critic says what the mixture is worth, not the reward",
        "right_critic": "its critic says what the mixture is worth, not the reward",
        "sources": "a cost counts by its multiplier, not by its weight in the run",
        "returns": "they are the mixture's, whose cost does not grow with the reward",
    }

    def prepare(self, batch: Batch) -> Batch:
        batch, rewards = self.constrained(batch)
        return replace(super().prepare(replace(batch, rewards=rewards)), rewards=batch.rewards)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return Terms(terms.loss, {**terms.metrics, **self.measured(batch)})

    def next(self, report: StepReport) -> LagrangianPPO:
        return replace(self, kl=PPO.next(self, report).kl, multiplier=super().next(report).multiplier)
