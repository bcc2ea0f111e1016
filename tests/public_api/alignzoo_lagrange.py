"""PPO with a limit on a cost: a second critic learns what the cost will be, beside the one for the reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

import alignzoo
from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class Lagrange:
    """-min(ρ·A, clip(ρ, 1±ε)·A) + c_v·½((V_r - R_r)² + (V_c - R_c)²), A = (A_r - λ·A_c)/(1 + λ).

    Dai et al. 2023, Safe RLHF (arXiv:2310.12773) eq. 10 and 11, with ln λ ← ln λ + η·(mean cost - limit) after
    Ray et al. 2019. Reward and cost come at the last token; where a batch has no such cost, there is none.
    """

    cost: str = "cost"
    """The reward of the recipe that is a cost; its weight there should be 0, so that it is no reward as well."""
    limit: float = 0.0
    """d, the mean cost that is allowed."""
    multiplier: Annotated[float, Gt(0)] = 1.0
    """λ, where the run stands."""
    rate: Annotated[float, Ge(0)] = 0.1
    """η, how fast λ follows."""
    clip: Annotated[float, Gt(0)] = 0.2
    """ε."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE's λ."""
    value_weight: Annotated[float, Ge(0)] = 0.1
    """c_v."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"logprobs", "old_logprobs", "values", "old_values", "cost_values", "old_cost_values"}
    )
    prepare_reads: ClassVar[frozenset[str]] = frozenset({"old_values", "old_cost_values"})
    laws: ClassVar[Mapping[str, str]] = {"adaptive": "the multiplier grows for as long as the limit is broken"}

    def prepare(self, batch: Batch) -> Batch:
        costs = batch.sources.get(self.cost, 0 * batch.rewards).nan_to_num()
        gain, returns = self._estimated(batch.rewards, batch["old_values"], batch)
        loss, cost_returns = self._estimated(costs, batch["old_cost_values"], batch)
        return replace(
            batch,
            advantages=(gain - self.multiplier * loss) / (1 + self.multiplier),
            returns=returns,
            extra={**batch.extra, "cost": costs, "cost_returns": cost_returns},
            weights=fn.token_mean(batch.mask),
        )

    def _estimated(self, scores, values, batch):
        return fn.gae(fn.at_last_token(scores, batch.mask), values, batch.mask, lam=self.lam)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        policy = fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip)
        value = 0.5 * (out.values - batch.returns) ** 2 * batch.mask
        cost = 0.5 * (out["cost_values"] - batch.extra["cost_returns"]) ** 2 * batch.mask
        metrics = {"loss/value": value, "loss/cost_value": cost, "cost": batch.extra["cost"]}
        return Terms(policy + self.value_weight * (value + cost), metrics)

    def next(self, report: StepReport) -> Lagrange:
        over = report.metrics.get("cost", self.limit) - self.limit
        return replace(self, multiplier=min(max(self.multiplier * math.exp(self.rate * over), 1e-3), 1e3))


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("lagrange", Lagrange)
