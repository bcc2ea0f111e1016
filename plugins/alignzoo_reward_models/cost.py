"""The algorithm `cost-model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class CostModel:
    """A cost model: which answer does more harm, and whether one does any.

    -log σ(C_j - C_i) - log σ(v_i·C_i) - log σ(v_j·C_j), j more harmful than i, v = +1 where an answer is harmful and -1
    where it is harmless, averaged over all pairs of a group; C = -s, since scores are the better the higher.

    Dai et al. 2023, Safe RLHF (arXiv:2310.12773) sec. 3.2: a cost of 0 parts harm from none. Their data say of each
    answer whether it is safe, and of two which is safer; here the score says both.
    """

    threshold: float = 0.5
    """A completion whose score is above it is harmless."""
    sign: Annotated[float, Ge(0)] = 1.0
    """The weight of the two terms that part harm from none; the paper's is 1."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2
    laws: ClassVar[Mapping[str, str]] = {
        "baseline": "a score says whether an answer is harmless, not only which is more so"
    }

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.ranked_pairs(batch)
        side = torch.where(batch.rewards > self.threshold, 1.0, -1.0)  # (N,)
        parted = -logsigmoid(side * out.scores)
        cost = -logsigmoid(pairs.gap(out.scores)) + self.sign * (parted[pairs.i] + parted[pairs.j])
        accuracy = rankings.ranked_right(pairs, out.scores, out.scores.abs())
        safe = fn.preferred(side * out.scores, torch.zeros_like(out.scores))
        return Terms(pairs.means(cost), {"accuracy": accuracy, "sign_accuracy": safe})
