"""The algorithm `pro`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class PRO:
    """Preference ranking optimization: each answer against all below it, by how much worse those are.

    -Σ_k log( e^{p_k/T_k} / (e^{p_k/T_k} + Σ_{i below k} e^{p_i/T_ki}) ) - w·p_1, p = the mean of log π over an answer's
    tokens, 1/T_ki = r_k - r_i, 1/T_k the largest of these, 1 the best.

    Song et al. 2023 (arXiv:2306.17492) eq. 7 to 9; w = 0.05·(n-1)² for n answers, as theirs. There is no reference.
    """

    sft: Annotated[float, Ge(0)] = 0.05
    """The weight of the imitation of the best, times (n-1)²."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        total, size = rankings.likelihood(batch, out.logprobs)
        mean, n = total / batch.mask.sum(1), fn.group_size(batch.group)
        gap = torch.where(rankings.below(batch), batch.rewards[:, None] - batch.rewards, 0.0)  # (N, N), 1/T_ki
        sharpest = gap.max(1).values if len(batch) else batch.rewards
        rivals = torch.where(gap > 0, mean * gap, -torch.inf)
        own = mean * sharpest
        ranks = torch.cat([own[:, None], rivals], 1).logsumexp(1) - own
        imitation = -mean * rankings.best_of_group(batch) * self.sft * (n - 1) ** 2
        accuracy = rankings.ranked_right(rankings.ranked_pairs(batch), mean, size / batch.mask.sum(1))
        return Terms((ranks + imitation) * n, {"loss/rank": ranks * n, "accuracy": accuracy})
