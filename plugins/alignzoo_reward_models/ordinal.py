"""The algorithm `ordinal-reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class OrdinalRewardModel:
    """A reward model of graded preferences: "much better", "a little better", "as good".

    -z·log σ(s_i - s_j) - (1-z)·log σ(s_j - s_i), z = (1 + (r_i - r_j)/span) / 2 held within 0 and 1, over all pairs of
    a group.

    Liu et al. 2024 (arXiv:2411.12843): z is the share of a crowd that would prefer i, which a grade says. Here the
    grade is the difference of the data's scores: shares of votes are such scores with a span of 1.
    """

    span: Annotated[float, Gt(0)] = 1.0
    """The difference of two scores at which everybody prefers the higher one."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return batch.select(fn.group_size(batch.group) > 1)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.all_pairs(batch)
        share = ((1 + pairs.gap(batch.rewards) / self.span) / 2).clamp(0, 1)
        gap = pairs.gap(out.scores)
        cost = -share * logsigmoid(gap) - (1 - share) * logsigmoid(-gap)
        ranked = rankings.ranked_pairs(batch)
        accuracy = rankings.ranked_right(ranked, out.scores, out.scores.abs())
        return Terms(pairs.means(cost), {"accuracy": accuracy})
