"""Optimizer `gkd`: generalised knowledge distillation over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class GKD:
    """JSD_β(π_T ‖ π) over the whole vocabulary at each token, averaged over the tokens.

    Agarwal et al. 2024 (arXiv:2306.13649) eq. 1 and algorithm 1. Whose text it is says the sampler: the policy's own,
    or the data's. Rewards are not read.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    beta: Annotated[float, Ge(0), Le(1)] = 0.5
    """β: 0 is the forward KL, 1 the reverse KL."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.1, 0.9)}
    online: ClassVar[bool] = True
    reads_rewards: ClassVar[bool] = False
    couples: ClassVar[str] = "row"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"teacher_jsd:{self.beta:g}"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        (column,) = self.needs
        return Terms(out[column], {"teacher/jsd": out[column].detach()})
