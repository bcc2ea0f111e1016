"""Optimizer `dpo`: direct preference optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class DPO:
    """Direct preference optimization: the policy is its own reward model.

    -(1-ε)·log σ(β·(Δbest - Δworst)) - ε·log σ(-β·(Δbest - Δworst)), Δ = log π(y|x) - log π_ref(y|x), over pairs.

    Rafailov et al. 2023 (arXiv:2305.18290) eq. 7; ε is the label smoothing of conservative DPO (Mitchell 2023). The
    pair is the best and the worst of a group; with a policy that writes, this is online DPO.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Assumed share of preferences that are the wrong way round."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask)
        reward = self.beta * log_ratio.sum(1)  # (N,), the implicit reward
        margin = (reward[0::2] - reward[1::2]).repeat_interleave(2)  # both rows carry their pair's
        cost = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        size = self.beta * torch.where(batch.mask, out.logprobs.abs() + batch.ref_logprobs.abs(), 0.0).sum(1)
        accuracy = fn.preferred(margin, (size[0::2] + size[1::2]).repeat_interleave(2))
        return Terms(cost, {"margin": margin, "accuracy": accuracy})
