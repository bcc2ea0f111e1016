"""The optimizer `gpg` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import BoolNT, FloatN, FloatNT
from alignzoo_policy_gradient.base import ScoreFunction


@dataclass(frozen=True)
class GPG(ScoreFunction):
    """Group policy gradient: nothing but the policy gradient, corrected for groups that teach nothing.

    1/Σ|y|·Σ -α·(r - group mean)·log π, α = B/(B - M), M of the batch's B rows being in tied groups.

    Chu et al. 2025 (arXiv:2504.02546), with F_norm = 1 and α as in their table of results, which was read: tied
    groups have no gradient and only thin out the
    mean, which α undoes. verl counts rewards of 0 in the place of tied rows. No ratio, no clip, no KL.
    """

    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0001, 0.1)}

    def weigh(self, mask: BoolNT) -> FloatNT:
        return fn.token_mean(mask)

    def credit(self, batch: Batch) -> FloatN:
        rows = len(fn.untied(batch))
        return (batch.rewards - fn.group_mean(batch.rewards, batch.group)) * (len(batch) / max(rows, 1))
