"""The optimizer `entropy-mask` on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class EntropyMask(ClippedGroup):
    """Beyond the 80/20 rule: only the tokens at which the policy hesitates are trained on.

    1/Σ|y|·Σ 1[H_t ≥ h]·-min(ρ·A, clip(ρ, 1-0.2, 1+0.28)·A), h the entropy that a share of the batch's tokens reach;
    A the group's z-score. The sum is divided by all tokens, the masked ones too.

    Wang et al. 2025 (arXiv:2506.01939). h is the step's, of the policy before the update; TRL's
    (`top_entropy_quantile`) is each micro-batch's.
    """

    share: Annotated[float, Gt(0), Le(1)] = 0.2
    """Which share of the batch's tokens, those with the highest entropy, is trained on; 1: all."""
    clip_high: Annotated[float, Ge(0)] = 0.28
    """The upper clip, wider than the lower one: unlikely tokens may rise."""
    prepare_reads: ClassVar[frozenset[str]] = frozenset({"old_entropy"})
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"share": (0.05, 1.0)}

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"old_entropy"}

    def credit(self, batch: Batch) -> FloatNT:
        entropy = batch["old_entropy"]
        known = entropy[batch.mask].sort().values
        least = known[math.ceil((1 - self.share) * (len(known) - 1) - 1e-6)] if len(known) else 0.0  # the quantile
        return fn.token_column(fn.group_advantages(batch), batch.mask) * (entropy >= least)
