"""Optimizer `top-k-distillation`: the forward KL over the teacher's likeliest tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class TopKDistillation:
    """KL(π_T ‖ π) over the teacher's k likeliest tokens and all others as one, averaged over the tokens.

    Peng et al. 2024 (arXiv:2410.16215) keep the teacher's likeliest logits to distil large models; theirs are scaled to
    add up to 1, where here the rest is one more outcome, so that the policy is told how likely it is.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    k: Annotated[int, Ge(1)] = 10
    """How many of the teacher's tokens are told apart."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    reads_rewards: ClassVar[bool] = False
    couples: ClassVar[str] = "row"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"teacher_top_kl:{self.k}"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        (column,) = self.needs
        return Terms(out[column], {"teacher/kl": out[column].detach()})
