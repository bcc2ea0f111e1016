"""The algorithm `awr`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class AWR:
    """Advantage-weighted regression: imitate what turned out better than the critic expected.

    -min(e^{A/β}, w)·log π(y_t) + c·½·(V - R)², A = R - V before the step, R by TD(λ), averaged over tokens.

    Peng et al. 2019 (arXiv:1910.00177) algorithm 1, with their β and weight clip. The answers may be anybody's: there
    is no ratio. Theirs fits the critic before the policy in each iteration; here one pass fits both.
    """

    beta: Annotated[float, Gt(0)] = 1.0
    """β, the temperature of the advantages, in the reward's unit."""
    weight_clip: Annotated[float, Gt(0)] = 20.0
    """w, the largest weight of a token."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """λ of TD(λ)."""
    value: Annotated[float, Gt(0)] = 0.1
    """c, the weight of the critic's loss."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "values", "old_values"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset({"old_values"})
    couples: ClassVar[str] = "row"
    laws: ClassVar[Mapping[str, str]] = {
        "every_token": "a worse answer is imitated as well, only less (arXiv:1910.00177)"
    }
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.05, 10.0)}

    def prepare(self, batch: Batch) -> Batch:
        rewards = fn.at_last_token(batch.rewards, batch.mask)
        if batch.token_rewards is not None:
            rewards = rewards + batch.token_rewards
        advantages, returns = fn.gae(rewards, batch.old_values, batch.mask, lam=self.lam)
        return replace(batch, advantages=advantages, returns=returns, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        weight = (batch.advantages / self.beta).exp().clamp(max=self.weight_clip) * batch.mask
        value = 0.5 * (out.values - batch.returns) ** 2
        metrics = {"loss/value": value, "weight_clipped": (weight >= self.weight_clip).float()}
        return Terms(-weight * out.logprobs + self.value * value, {**metrics, "nll": -out.logprobs})
