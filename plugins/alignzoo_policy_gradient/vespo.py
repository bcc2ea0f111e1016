"""The optimizer `vespo` on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo_policy_gradient.arithmetic import token_advantages
from alignzoo_policy_gradient.base import GroupRelative

LEAST, MOST = math.log(1e-8), 20.0
"""Between which log W counts, as in TRL: beyond, its weight is 0 in float32."""


@dataclass(frozen=True)
class VESPO(GroupRelative):
    """Variational sequence-level soft policy optimization: a whole sequence's ratio gives it a smooth weight.

    1/Σ|y|·Σ -[φ(W)]·A·log π, φ(W) = W^k·e^(λ(1-W)), W = π(y|x)/π_old(y|x), [·] without gradient; k and λ differ for
    A ≥ 0 and A < 0.

    arXiv:2602.10693, as in TRL (`loss_type="vespo"`), with its defaults. φ(1) = 1, and φ falls on both sides of k/λ.
    W is not divided by the length.
    """

    k: Annotated[float, Ge(0)] = 2.0
    """k of good answers: how fast the weight falls as W goes to 0."""
    decay: Annotated[float, Gt(0)] = 3.0
    """λ of good answers: how fast the weight falls as W grows."""
    k_bad: Annotated[float, Ge(0)] = 3.0
    """k of bad answers."""
    decay_bad: Annotated[float, Gt(0)] = 2.0
    """λ of bad answers."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0001, 0.1)}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs.detach(), batch.old_logprobs, batch.mask).clamp(-MOST, MOST)
        log_w = log_ratio.sum(1).clamp(LEAST, MOST)  # (N,)
        good = batch.advantages >= 0
        k, decay = torch.where(good, self.k, self.k_bad), torch.where(good, self.decay, self.decay_bad)
        weight = torch.exp(decay + k * log_w - decay * log_w.exp())
        cost = -fn.token_column(weight, batch.mask) * token_advantages(batch) * out.logprobs
        return Terms(cost, {"sequence_weight": weight})

    def oracle(self) -> Twin:
        settings: dict[str, Any] = {
            "loss_type": "vespo",
            "beta": self.kl,
            "vespo_k_pos": self.k,
            "vespo_k_neg": self.k_bad,
        }
        settings |= {"vespo_lambda_pos": self.decay, "vespo_lambda_neg": self.decay_bad}
        return Twin("trl", "alignzoo_trl.groups:grpo", settings, rows="groups")
