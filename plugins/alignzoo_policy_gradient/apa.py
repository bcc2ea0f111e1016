"""The optimizer `apa` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.base import ActorCritic


@dataclass(frozen=True)
class APA(ActorCritic):
    """Advantage-induced policy alignment: regression of the log-ratio onto the advantage.

    (log π - log π_old - A/λ)² + c_v·½(V - R)², averaged over tokens; A and R by GAE.

    Zhu et al. 2023 (arXiv:2306.02231): the best policy within a KL of π_old is π_old·e^(A/λ), up to its
    normalizer, which counts as 1. Numbers as in the authors' code, which also whitens A and scales rewards;
    their script for dialogues has λ = 0.1.
    """

    value_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the value loss."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """λ: the larger, the less an advantage moves the policy, in reward per nat."""
    epochs: Annotated[int, Ge(1)] = 2
    """Passes over each batch of completions."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"temperature": (0.02, 5.0)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        policy, value = (log_ratio - batch.advantages / self.temperature) ** 2, 0.5 * (out.values - batch.returns) ** 2
        return Terms(policy + self.value_weight * value, {"loss/policy": policy, "loss/value": value})
