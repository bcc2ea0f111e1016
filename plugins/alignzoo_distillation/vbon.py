"""Optimizer `vbon`: variational best-of-n."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, PluginError, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo_distillation.j_bond import COLUMN


@dataclass(frozen=True)
class VBoN:
    """Variational best-of-n: the policy comes near to the best of n of its reference, by the reverse KL.

    -min(ρ·A, clip(ρ, 1±ε)·A), A = R less its mean over the policy's own answers of the group,
    R = (n-1)·log F(r) - log π_old/π_ref(y), F(r) = (1 + k)/(1 + m), k of the reference's m answers worth r or less.

    Amini et al. 2024 (arXiv:2407.06057), the exact bound: of the rewards only their order among the reference's counts,
    and the KL weighs 1/(n-1) beside log F, as in their code, which was read. Theirs has a critic, and F from answers
    that were stored before; here the sampler `beside-anchor` brings the reference's, and the 1 keeps log F finite.
    """

    n: Annotated[int, Ge(2)] = 8
    """n: the policy is to be as the best of so many answers of the reference."""
    clip: Annotated[float, Gt(0)] = 0.2
    """ε: the ratio is clipped to 1 ± clip."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset({"old_logprobs", "ref_logprobs"})
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"n": (2, 64)}
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the reference's answers."""
        if not context.brings(COLUMN):
            raise PluginError(
                "vbon measures each answer by the rewards of its reference's, and the stage's sampler brings none: "
                "set sampler=beside-anchor, sampler.n of the policy's answers and sampler.anchors of the reference's"
            )

    def prepare(self, batch: Batch) -> Batch:
        theirs = batch.extra.get(COLUMN, torch.zeros_like(batch.rewards))
        same = batch.group[:, None] == batch.group  # (N, N): by row, the answers of its group
        below = same & (batch.rewards <= batch.rewards[:, None])
        share = (1 + (below * theirs).sum(1)) / (1 + (same * theirs).sum(1))
        moved = fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask).sum(1)
        worth = (self.n - 1) * share.log() - moved
        own = replace(batch, advantages=worth).select(theirs < 0.5)
        own = own.select(fn.group_size(own.group) > 1)
        centred = own.advantages - fn.group_mean(own.advantages, own.group)
        return replace(own, advantages=centred, weights=fn.sequence_sum(own.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        advantages = fn.token_column(batch.advantages, batch.mask)
        return Terms(fn.clipped_surrogate(ratio, advantages, low=self.clip, high=self.clip))
