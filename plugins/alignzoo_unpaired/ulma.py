"""The algorithm `ulma`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings


@dataclass(frozen=True)
class ULMA:
    """Unified language model alignment: imitate the desirable answers, move away from the others.

    -z·log π(y|x) - (1-z)·log σ(-β·log π(y|x)/π_ref(y|x)), z = 1 where the answer is desirable.

    Cai et al. 2023 (arXiv:2312.02554) sec. 4.2: demonstrations and point-wise preferences in one step, without a
    reference for what is known to be good.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """How fast what is undesirable stops to be pushed down below the reference."""
    threshold: float = 0.5
    """A completion whose score is above it is desirable."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        likelihood = torch.where(batch.mask, out.logprobs, 0.0).sum(1)
        cost = torch.where(batch.rewards > self.threshold, -likelihood, -logsigmoid(-reward))
        return Terms(cost, {"margin": reward})
