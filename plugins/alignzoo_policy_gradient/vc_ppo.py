"""The optimizer `vc-ppo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Le

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.ppo import PPO


@dataclass(frozen=True)
class VCPPO(PPO):
    """Value-calibrated PPO: the critic has a λ of its own, and may learn before the policy does.

    As PPO, with advantages by GAE's λ and returns by λ_critic; in the first `warmup` steps the critic learns alone.

    Yuan et al. 2025 (arXiv:2503.01491), "decoupled GAE" and "value pretraining": over long answers
    λ < 1 fades the reward out of the returns, and an untrained critic spoils the first advantages. The paper pretrains
    until the critic explains its returns; here that is a number of steps, 0 by default. With a critic on the policy's
    own trunk the policy moves a little all the same.
    """

    lam_critic: Annotated[float, Ge(0), Le(1)] = 1.0
    """λ of the returns that the critic learns; 1: what was sampled, without bias."""
    warmup: Annotated[int, Ge(0)] = 0
    """Steps yet to come in which the critic alone learns, while the policy generates as it is."""

    def estimates(self, rewards: FloatNT, batch: Batch) -> tuple[FloatNT, FloatNT]:
        returns = fn.gae(rewards, batch.old_values, batch.mask, gamma=self.gamma, lam=self.lam_critic)[1]
        return super().estimates(rewards, batch)[0], returns

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return Terms(self.value_weight * terms.metrics["loss/value"], terms.metrics) if self.warmup else terms

    def next(self, report: StepReport) -> PPO:
        return replace(self, warmup=self.warmup - 1) if self.warmup else super().next(report)
