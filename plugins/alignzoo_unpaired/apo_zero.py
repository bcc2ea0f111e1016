"""The algorithm `apo-zero-unpaired`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class APOZeroUnpaired:
    """Anchored preference optimization of single answers: desirable ones become likelier than the reference has them.

    1 - σ(β·log π/π_ref) of a desirable answer, σ(β·log π/π_ref) of another one.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266) eq. 7, each half on answers of its own, as TRL has it
    (`loss_type="apo_zero_unpaired"`). It is for data that are better than what the policy generates.
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
        return Terms(torch.sigmoid(-reward), {"accuracy": fn.preferred(reward, size), "margin": reward})
