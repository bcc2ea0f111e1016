"""Optimizer `wpo`: weighted preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss, on_both_rows


@dataclass(frozen=True)
class WPO(ReferencePairLoss):
    """Weighted preference optimization: pairs count as they would if the policy itself had generated them.

    -w(yw)·w(yl)·log σ(β·(Δw - Δl)), w(y) = exp (1/|y|)·Σₜ (log π(yₜ) - log Σᵥ π(v)²), without gradient;
    Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Zhou et al. 2024 (arXiv:2406.11827) eq. 2 with sampled alignment; TRL's `use_weighting`. Σᵥ π(v)², the chance that
    two samples agree, brings the weight of what a policy samples near 1, however spread its distributions are.
    """

    alignment: Literal["sampled", "none"] = "sampled"
    """Whether a token's probability is held against what a sample has on average; otherwise it weighs as it is."""

    laws: ClassVar[Mapping[str, str]] = {
        "ratios": "a pair's weight is the policy's own probability of it, whatever the reference says"
    }

    @property
    def needs(self) -> frozenset[str]:
        aligned = {"collision"} if self.alignment == "sampled" else set()
        return frozenset({"logprobs", "ref_logprobs"} | aligned)

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms, typical = super().loss(batch, out), out.logprobs.detach()
        if self.alignment == "sampled":
            collision = torch.where(batch.mask, out["collision"].detach(), 1.0)
            typical = typical - collision.clamp(min=torch.finfo(collision.dtype).tiny).log()
        log_weight = (torch.where(batch.mask, typical, 0.0) * fn.sequence_mean(batch.mask)).sum(1)
        weight = on_both_rows(log_weight.view(-1, 2).sum(1).exp())
        return Terms(weight * terms.loss, {**terms.metrics, "pair_weight": weight})

    def oracle(self) -> Twin | None:
        settings = {"loss_types": ["sigmoid"], "beta": self.beta, "use_weighting": True}
        return Twin("trl", "alignzoo_trl.pairs:dpo", settings) if self.alignment == "sampled" else None
