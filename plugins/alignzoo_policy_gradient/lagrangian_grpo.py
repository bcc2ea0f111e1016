"""The optimizer `lagrangian-grpo`: limits on costs without a critic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, Terms
from alignzoo_policy_gradient.base import ClippedGroup
from alignzoo_policy_gradient.limits import Limited


@dataclass(frozen=True)
class LagrangianGRPO(Limited, ClippedGroup):
    """GRPO under a constraint: reward is sought where the mean cost is within its limit.

    clip(A) + β·k3, A the group's z-score of (r - λ·(c - d))/(1 + λ); after a step ln λ grows by η·λ·(c̄ - d).

    Dai et al. 2023, Safe RLHF (arXiv:2310.12773) sec. 3.3, with a group for a baseline in the place of the critics of
    reward and cost; Moskovitz et al. 2023 (arXiv:2310.04373) have the like against overoptimization. With λ = 0 this
    is GRPO with a mean over all tokens.
    """

    kl: Annotated[float, Ge(0)] = 0.04
    """β, the weight of the KL to the reference in the loss, in nats per token."""

    laws: ClassVar[Mapping[str, str]] = {"sources": "a cost counts by its multiplier, not by its weight in the run"}

    def prepare(self, batch: Batch) -> Batch:
        batch, rewards = self.constrained(batch)
        return replace(batch, advantages=self.credit(replace(batch, rewards=rewards)), weights=self.weigh(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return Terms(terms.loss, {**terms.metrics, **self.measured(batch)})
