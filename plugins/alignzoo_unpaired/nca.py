"""The algorithm `listwise-nca`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class NCA:
    """Noise-contrastive alignment: each answer by itself against noise, so that good ones do not lose likelihood.

    -Σ_i [ softmax(r/α)_i · log σ(r̂_i) + 1/n · log σ(-r̂_i) ] over a group of n, r̂ = β·log π(y|x)/π_ref(y|x).

    Chen et al. 2024 (arXiv:2402.05369) eq. 12. Where the rewards are equal, the reference is its optimum.
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
        cost = -target * fn.group_size(batch.group) * logsigmoid(reward) - logsigmoid(-reward)
        return Terms(cost, {"accuracy": rankings.ranked_right(pairs, reward, size)})
