"""The algorithm `pointwise-dpo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class PointwiseDPO:
    """Direct preference optimization of single answers: each is desirable or not.

    -z·log σ(r̂) - (1-z)·log σ(-r̂), r̂ = β·log π(y|x)/π_ref(y|x), z = 1 where the answer is desirable.

    Cai et al. 2023 (arXiv:2312.02554) sec. 4.1, point-wise DPO with binary labels; the prompt's log-partition, which
    nobody knows, is taken to be 0.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    threshold: float = 0.5
    """A completion whose score is above it is desirable."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        sign = torch.where(batch.rewards > self.threshold, 1.0, -1.0)
        reward = sign * rankings.implicit_reward(batch, out.logprobs, self.beta)
        size = rankings.rounding(batch, out.logprobs, self.beta)
        return Terms(-logsigmoid(reward), {"accuracy": fn.preferred(reward, size), "margin": reward})
