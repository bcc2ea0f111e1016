"""Optimizer `distillm`: distillation by a skew KL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt

from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class DistiLLM:
    """KL(π_T ‖ α·π_T + (1-α)·π) over the whole vocabulary at each token, averaged over the tokens.

    Ko et al. 2024 (arXiv:2402.03898) sec. 3.1, and their code, which was read. A mixture in the second place keeps the
    divergence and its gradient bounded where the policy gives a teacher's token no chance. Whose text it is says the
    sampler: the data's, the policy's own, or with `replay` former texts of its own, as theirs come from a buffer.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    skew: Annotated[float, Ge(0), Lt(1)] = 0.1
    """α: 0 is the forward KL."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    reads_rewards: ClassVar[bool] = False
    couples: ClassVar[str] = "row"
    answer: ClassVar[str] = "skew_kl"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"skew": (0.01, 0.5)}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"teacher_{self.answer}:{self.skew:g}"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        (column,) = self.needs
        return Terms(out[column], {"teacher/skew_kl": out[column].detach()})
