"""The optimizer `pass-at-k` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ClippedGroup


def misses(bad: FloatN, rows: FloatN, k: FloatN) -> FloatN:
    """C(bad, k)/C(rows, k), (N,): the chance that k of the rows, drawn at once, are all bad."""
    steps = torch.arange(int(k.max()) if len(k) else 0, device=bad.device)[:, None]
    each = (bad - steps).clamp(min=0) / (rows - steps).clamp(min=1)
    return torch.where(steps < k, each, 1.0).prod(0)


@dataclass(frozen=True)
class PassAtK(ClippedGroup):
    """Pass@k training: a group of k answers is rewarded when one of them is right.

    The clipped surrogate with A = (1 - R̄)/σ for right answers and (1 - R̄ - C(b-1, k-1)/C(n-1, k-1))/σ for wrong ones;
    R̄ = 1 - C(b, k)/C(n, k) is the chance that k of the group's n answers, b of them wrong, have a right one,
    σ = √(R̄·(1 - R̄)).

    Chen et al. 2025 (arXiv:2508.10751), "analytical derivation", and their code, which was read: the mean over all
    sets of k that an answer can be in. Averaged over all tokens. k = 1 is GRPO's z-score, but for ddof.
    """

    k: Annotated[int, Ge(1)] = 2
    """How many answers are one try, fewer than a group has: where abstentions leave no more than k, it is one fewer
    than these. The paper's 4 wants groups of 16 and more: where fewer than k answers are wrong, nothing is learnt."""
    right: float = 1.0
    """An answer is right where its reward is at least this."""
    laws: ClassVar[Mapping[str, str]] = {"baseline": "answers are right or wrong, and so rewards cannot be shifted"}

    @property
    def completions(self) -> int:  # type: ignore[override]
        return self.k + 1

    def credit(self, batch: Batch) -> FloatN:
        good, rows = batch.rewards >= self.right, fn.group_size(batch.group).float()
        bad = (fn.group_mean((~good).float(), batch.group) * rows).round()
        k = (rows - 1).clamp(min=1, max=self.k)
        failed = misses(bad, rows, k)  # 1 - R̄
        spread = (failed * (1 - failed)).sqrt()
        alone = torch.where(good, 0.0, misses((bad - 1).clamp(min=0), rows - 1, k - 1))
        return torch.where(spread > 0, (failed - alone) / spread.clamp(min=1e-6), 0.0)
