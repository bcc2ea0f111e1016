"""Optimizer `tr-dpo`: direct preference optimization with a reference that follows the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class TRDPO(ReferencePairLoss):
    """Trust-region direct preference optimization: the reference follows the policy.

    -log σ(β·(Δw - Δl)), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer; π_ref's weights become
    α·π + (1-α)·π_ref every τ steps.

    Gorbatovski et al. 2024 (arXiv:2404.09656), the soft update; α = 1 with a larger τ is the hard one. TRL's
    `sync_ref_model` mixes by `ref_model_mixup_alpha` every `ref_model_sync_steps`, 0.6 every 512 steps.
    """

    alpha: Annotated[float, Gt(0), Le(1)] = 0.6
    """α: how much of the policy the reference takes; 1: all of it."""
    tau: Annotated[int, Ge(1)] = 1
    """τ: steps between two of its moves. In a run of fewer steps it does not move."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def follow(self, step: int) -> Mapping[str, float]:
        return {} if step % self.tau else {"ref": self.alpha}

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["sigmoid"], "beta": self.beta})
