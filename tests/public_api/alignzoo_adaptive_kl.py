"""PPO with an adaptive KL penalty in place of the clip: its successor steers β by what the step has measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

import alignzoo
from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class AdaptiveKL:
    """-ρ·A + β·KL(π_old ‖ π) + c_v·½(V-R)², averaged over tokens; β doubles where the KL of a step is more than 1.5
    times its target, and halves where it is less than a 1.5th.

    Schulman et al. 2017 (arXiv:1707.06347) sec. 4, eq. 8. The KL is k3's estimate, and its mean over the step's
    updates; theirs is exact, and of the last update. The score comes at the last token, less kl·(log π_old - log π_ref)
    at each.
    """

    target: Annotated[float, Gt(0)] = 0.01
    """How far one step may move the policy, in nats per token."""
    beta: Annotated[float, Gt(0)] = 1.0
    """β, where the run stands."""
    kl: Annotated[float, Ge(0)] = 0.02
    """Weight of the KL to the reference in the reward, in nats per token."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE's λ."""
    value_weight: Annotated[float, Ge(0)] = 0.1
    """c_v, the weight of the value loss."""
    epochs: Annotated[int, Ge(2)] = 4
    """Passes over each batch; before the first update of one there is no KL to measure."""
    online: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "values", "old_logprobs", "ref_logprobs", "old_values"})
    kl_weight: ClassVar[str] = "kl"
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        away = fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask)
        rewards = fn.at_last_token(batch.rewards, batch.mask) - self.kl * away
        advantages, returns = fn.gae(rewards, batch.old_values, batch.mask, lam=self.lam)
        advantages, weights = fn.whiten(advantages, batch.mask), fn.token_mean(batch.mask)
        return replace(batch, advantages=advantages, returns=returns, weights=weights)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        moved = fn.kl_k3(-log_ratio)
        value = 0.5 * (out.values - batch.returns) ** 2 * batch.mask
        cost = -log_ratio.exp() * batch.advantages + self.beta * moved + self.value_weight * value
        return Terms(cost, {"approx_kl": moved, "loss/value": value})

    def next(self, report: StepReport) -> AdaptiveKL:
        moved = report.metrics.get("approx_kl", self.target)
        factor = 2.0 if moved > 1.5 * self.target else 0.5 if moved < self.target / 1.5 else 1.0
        return replace(self, beta=min(max(self.beta * factor, 1e-4), 1e4))


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("adaptive-kl", AdaptiveKL)
