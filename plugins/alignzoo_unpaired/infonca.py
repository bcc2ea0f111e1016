"""The algorithm `infonca`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class InfoNCA:
    """Noise-contrastive alignment by InfoNCE: which of a prompt's answers is it, as the rewards have it.

    -Σ_i softmax(r/α)_i · log softmax(r̂)_i over a group, r̂ = β·log π(y|x)/π_ref(y|x).

    Chen et al. 2024 (arXiv:2402.05369) eq. 9: rewards as they are, not only their order. Of two answers and α towards
    0 it is DPO.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    alpha: Annotated[float, Gt(0)] = 1.0
    """α, the temperature of the rewards: small, only the best answer counts."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        pairs, size = rankings.ranked_pairs(batch), rankings.rounding(batch, out.logprobs, self.beta)
        target = rankings.group_softmax(batch.rewards / self.alpha, batch.group)
        cost = -target * rankings.group_log_softmax(reward, batch.group) * fn.group_size(batch.group)
        return Terms(cost, {"accuracy": rankings.ranked_right(pairs, reward, size)})
