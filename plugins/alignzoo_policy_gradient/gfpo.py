"""The optimizer `gfpo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class GFPO(ClippedGroup):
    """Group filtered policy optimization: sample more, and learn from the shortest.

    The clipped surrogate over the k shortest answers of each group, A = (r - mean)/(sd + 1e-4) over these k.

    Shrivastava et al. 2025 (arXiv:2508.09726), "shortest k of G". Answers that are left out count nowhere. Averaged
    over all tokens. The paper adds a small KL and an entropy bonus; set `kl` for the first.
    """

    keep: Annotated[int, Ge(2)] = 4
    """k: how many answers of a group are learnt from, fewer than it has."""
    laws: ClassVar[Mapping[str, str]] = {"kl_estimate": "the KL is of the answers that are kept, a biased sample"}

    @property
    def completions(self) -> int:  # type: ignore[override]
        return self.keep + 1

    def order(self, batch: Batch) -> FloatN:
        """What each answer is sorted by: those with the least are kept."""
        return batch.mask.sum(1).float()

    def prepare(self, batch: Batch) -> Batch:
        order, rows, start = self.order(batch), [torch.zeros(0, dtype=torch.long)], 0
        for size in batch.group_sizes().tolist():
            place = order[start : start + size].argsort(stable=True).cpu()
            rows.append(start + place[: self.keep].sort().values)
            start += size
        return super().prepare(batch.select(torch.cat(rows).to(batch.tokens.device)))
