"""TR-DPO: DPO whose reference follows the policy, softly at every step or by a copy now and then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le

import alignzoo
from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class TRDPO:
    """-log σ(β·(Δ_w - Δ_l)), Δ = log π/π_ref of a whole answer, where every τ steps π_ref ← α·π + (1-α)·π_ref.

    Gorbatovski et al. 2024 (arXiv:2404.09656) eq. 4 (soft, α < 1 and τ = 1) and eq. 5 (hard, α = 1). The weights are
    mixed, not the probabilities.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """β, the weight of the KL to the reference."""
    alpha: Annotated[float, Gt(0), Le(1)] = 0.5
    """α, how much of the policy the reference takes; 1: all of it."""
    tau: Annotated[int, Ge(1)] = 1
    """τ, steps between two of its moves."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        away = fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask).sum(1)
        margin = self.beta * (away[0::2] - away[1::2])
        return Terms(-torch.nn.functional.logsigmoid(margin).repeat_interleave(2))

    def follow(self, step: int) -> Mapping[str, float]:
        return {} if step % self.tau else {"ref": self.alpha}


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("tr-dpo", TRDPO)
