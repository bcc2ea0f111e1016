"""Optimizer `tdpo`: token-level direct preference optimization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class TDPO(ReferencePairLoss):
    """Token-level direct preference optimization: the KL along each answer, over the whole vocabulary, is held, too.

    -log σ(β·(Δw - Δl) - β·α·(Dl - [Dw])), Δ = log π(y|x) - log π_ref(y|x), D = Σₜ KL(π_ref ‖ π) of the next token, [·]
    without gradient.

    Zeng et al. 2024 (TDPO2, arXiv:2404.11999), with the settings of their code.
    """

    alpha: Annotated[float, Ge(0)] = 0.5
    """α: weight of the difference of both answers' divergences."""
    one_sided: ClassVar[bool] = True
    """Whether the better answer's divergence has no gradient; with one, it would be raised."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs", "ref_kl"})

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        divergence = out["ref_kl"]
        if self.one_sided:
            better = torch.arange(len(batch), device=divergence.device) % 2 == 0
            divergence = torch.where(better[:, None], divergence.detach(), divergence)
        return super().loss(batch, replace(out, logprobs=out.logprobs + self.alpha * divergence))
