"""GDPO: several rewards, each normalised in its group by itself, so that none drowns the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

import alignzoo
from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn

EPSILON = 1e-4


@dataclass(frozen=True)
class GDPO:
    """GRPO's clipped surrogate and KL with an advantage of several rewards: A = z_batch(Σ_k w_k z_group(r_k)).

    Group reward-decoupled normalization policy optimization, 2026 (arXiv:2601.05242). z is (r - mean)/(sd + 1e-4); the
    weights are the recipe's. Differs in what the paper has not: a reward that abstains of a completion adds nothing to
    its advantage, nor to the mean and sd of its group.
    """

    kl: Annotated[float, Ge(0)] = 0.04
    """β, the weight of the KL to the reference in the loss."""
    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio is clipped at 1 ± clip."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    online: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "kl"
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        total = torch.zeros_like(batch.rewards)
        for name, values in batch.sources.items():
            total = total + batch.source_weights[name] * standardised(values, batch.group)
        advantages = standardised(total, torch.zeros_like(batch.group))
        return replace(batch, advantages=advantages, weights=fn.sequence_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        advantages = fn.token_column(batch.advantages, batch.mask)
        cost = fn.clipped_surrogate(ratio, advantages, low=self.clip, high=self.clip)
        kl = fn.kl_k3(fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask))
        clipped = (ratio < 1 - self.clip) | (ratio > 1 + self.clip)
        return Terms(cost + self.kl * kl, {"clip_fraction": clipped.float(), "loss/kl": kl})


def standardised(values: Tensor, group: Tensor) -> Tensor:
    """(r - mean) / (sd + ε) over the rows of a group that have a number, 0 for the others; sd is unbiased."""
    given = ~values.isnan()
    size = fn.group_size(group)
    count = fn.group_mean(given.float(), group) * size
    mean = fn.group_mean(values.nan_to_num(), group) * size / count.clamp(min=1)
    centred = torch.where(given, values.nan_to_num() - mean, 0.0)
    spread = fn.group_mean(centred**2, group) * size / (count - 1).clamp(min=1)
    return centred / (spread.sqrt() + EPSILON)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("gdpo", GDPO)
