"""The algorithm `rrhf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn
from alignzoo_unpaired.shared import Listed


@dataclass(frozen=True)
class RRHF(Listed):
    """Rank responses: a better answer is likelier per token than a worse one, and the best is imitated.

    w·Σ_{r_i > r_j} max(0, p_j - p_i) - Σ_t log π(y*_t), p = the mean of log π over an answer's tokens, y* the best.

    Yuan et al. 2023 (arXiv:2304.05302) sec. 3.1; their code weighs the ranks by 100 and takes the mean over the
    tokens of y*. There is no reference and no margin: only the order counts.
    """

    rank_weight: Annotated[float, Ge(0)] = 1.0
    """w, the weight of the ranks beside the imitation of the best."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"rank_weight": (0.1, 100.0)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        total, size = rankings.likelihood(batch, out.logprobs)
        mean = total / batch.mask.sum(1)
        pairs = rankings.ranked_pairs(batch)
        ranks = pairs.sums(torch.relu(-pairs.gap(mean)))
        imitation = -total * rankings.best_of_group(batch) * fn.group_size(batch.group)
        accuracy = rankings.ranked_right(pairs, mean, size / batch.mask.sum(1))
        return Terms(self.rank_weight * ranks + imitation, {"loss/rank": ranks, "accuracy": accuracy})
