"""Optimizer `ld-dpo`: length-desensitised direct preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss, on_both_rows


@dataclass(frozen=True)
class LDDPO(ReferencePairLoss):
    """Length-desensitised direct preference optimization: what only the longer answer has room for counts less.

    -log σ(β·(Δw - Δl)), Δ = Σ_{t≤L} δₜ + α·Σ_{t>L} δₜ, δₜ = log π(yₜ)/π_ref(yₜ), L the length of the shorter answer.

    Liu et al. 2024 (arXiv:2409.06411); TRL's `ld_alpha` with the loss_type "sigmoid".
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    """α: what a token beyond the shorter answer's length counts; 1: as much as any."""
    laws: ClassVar[Mapping[str, str]] = {
        "other_length": "tokens beyond the shorter answer's length count less (arXiv:2409.06411)"
    }

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        shared = on_both_rows(batch.mask.sum(1).view(-1, 2).amin(1))
        weight = torch.where(batch.mask.cumsum(1) <= shared[:, None], 1.0, self.alpha)
        weighed = replace(batch, ref_logprobs=weight * batch.ref_logprobs)
        return super().loss(weighed, replace(out, logprobs=weight * out.logprobs))

    def oracle(self) -> Twin:
        return Twin(
            "trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["sigmoid"], "beta": self.beta, "ld_alpha": self.alpha}
        )
