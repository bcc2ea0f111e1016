"""The algorithm `pro`."""

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
class PRO(Listed):
    """Preference ranking optimization: each answer against all below it, by how much worse those are.

    -Σ_k log( e^{p_k/T_k} / (e^{p_k/T_k} + Σ_{i below k} e^{p_i/T_ki}) ) - w·p_1, p = the mean of log π over an answer's
    tokens, 1/T_ki = r_k - r_i, 1/T_k the largest of these, 1 the best.

    Song et al. 2023 (arXiv:2306.17492) sec. 3.3, with temperatures by the rewards; w = 0.05·(n-1)² for n answers, as
    theirs. There is no reference.
    """

    sft: Annotated[float, Ge(0)] = 0.05
    """The weight of the imitation of the best, times (n-1)²."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"sft": (0.005, 0.5)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        total, size = rankings.likelihood(batch, out.logprobs)
        mean, n = total / batch.mask.sum(1), fn.group_size(batch.group)
        gap = torch.where(rankings.below(batch), batch.rewards[:, None] - batch.rewards, 0.0)  # (N, N), 1/T_ki
        own = mean * (gap.max(1).values if len(batch) else batch.rewards)  # p_k/T_k
        rivals = torch.where(gap > 0, mean * gap, -torch.inf)
        ranks = torch.cat([own[:, None], rivals], 1).logsumexp(1) - own
        imitation = -mean * rankings.best_of_group(batch) * self.sft * (n - 1) ** 2
        accuracy = rankings.ranked_right(rankings.ranked_pairs(batch), mean, size / batch.mask.sum(1))
        return Terms((ranks + imitation) * n, {"loss/rank": ranks * n, "accuracy": accuracy})
