"""The mathematics of pairs and lists within groups, and of single rows: what ranking losses share.

Shapes: N rows, M pairs (see `alignzoo.types`). A loss over pairs or lists is laid on rows, since the objective is a
mean over rows: then it is the mean over groups of what the formula says of one, where groups are equally large; a
group's part counts by its number of completions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.types import Batch, FloatN, FloatNT, LongN


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, each within a group."""

    i: LongN
    """The first of each pair, (M,): in `ranked_pairs` the better one."""
    j: LongN
    """The second of each pair, (M,)."""
    group: LongN
    """Each row's group, counted from 0, (N,)."""

    def gap(self, values: FloatN) -> Tensor:
        """The first's value minus the second's, (M,)."""
        return values[self.i] - values[self.j]

    def sums(self, values: Tensor) -> FloatN:
        """Σ over a group's pairs of `values` (M,), laid on its rows, half of each pair on either one, (N,)."""
        size = torch.bincount(self.group)
        share = values * size[self.group[self.i]] / 2
        rows = values.new_zeros(len(self.group))
        return rows.index_add(0, self.i, share).index_add(0, self.j, share)

    def means(self, values: Tensor) -> FloatN:
        """The mean over a group's pairs of `values` (M,), laid on its rows, half of each pair on either one, (N,)."""
        count = torch.bincount(self.group[self.i], minlength=int(self.group.max()) + 1 if len(self.group) else 0)
        return self.sums(values / count[self.group[self.i]])


def ranked_pairs(batch: Batch) -> Pairs:
    """All pairs of a group of which the first has the higher reward."""
    i, j = below(batch).nonzero(as_tuple=True)
    return Pairs(i, j, fn.group_index(batch.group))


def all_pairs(batch: Batch) -> Pairs:
    """All pairs of a group, each once, in the order of its rows, equal rewards included."""
    i, j = _same(batch.group).triu(1).nonzero(as_tuple=True)
    return Pairs(i, j, fn.group_index(batch.group))


def group_softmax(values: FloatN, group: LongN) -> FloatN:
    """exp(x) / Σ exp(x) over the row's group, (N,)."""
    return group_log_softmax(values, group).exp()


def group_log_softmax(values: FloatN, group: LongN) -> FloatN:
    """x - log Σ exp(x) over the row's group, (N,)."""
    return values - torch.where(_same(group), values, -torch.inf).logsumexp(1)


def plackett_luce(scores: FloatN, batch: Batch) -> FloatN:
    """-log of how probably each row comes before all that are ranked below it, times its group's size, (N,).

    -s_i + log(e^{s_i} + Σ_{j below i} e^{s_j}): over a ranking without ties the mean over rows is the mean over groups
    of the negative log-likelihood of Plackett and Luce. Of equals, none comes before the other.
    """
    rivals = below(batch) | torch.eye(len(batch), dtype=torch.bool, device=scores.device)
    return (torch.where(rivals, scores, -torch.inf).logsumexp(1) - scores) * fn.group_size(batch.group)


def _same(group: LongN) -> Tensor:
    """Which rows are of one group, (N, N)."""
    return group[:, None] == group


def implicit_reward(batch: Batch, logprobs: FloatNT, beta: float, *, role: str = "ref") -> FloatN:
    """β·log π(y|x)/π'(y|x) of each row, (N,): what the policy says of it beside a role that fills log-probabilities."""
    return beta * fn.log_ratio(logprobs, batch[f"{role}_logprobs"], batch.mask).sum(1)


def rounding(batch: Batch, logprobs: FloatNT, beta: float, *, role: str = "ref") -> FloatN:
    """The size of what `implicit_reward` adds up, by which `functional.preferred` knows a tie, (N,)."""
    other = batch[f"{role}_logprobs"]
    return beta * torch.where(batch.mask, logprobs.abs() + other.abs(), 0.0).sum(1)


def ranked_right(pairs: Pairs, values: FloatN, size: FloatN) -> FloatN:
    """The share of a group's pairs whose first has the higher value, laid on its rows, (N,); a tie counts a half."""
    return pairs.means(fn.preferred(pairs.gap(values), size[pairs.i] + size[pairs.j]))


def below(batch: Batch) -> Tensor:
    """Which rows are ranked below which: True at (i, j) where j is of i's group and has a lower reward, (N, N)."""
    return _same(batch.group) & (batch.rewards[:, None] > batch.rewards)


def places(values: FloatN, group: LongN) -> FloatN:
    """Each row's place in its group by these values, 1 the highest, equals in the order of the rows, (N,)."""
    row = torch.arange(len(values), device=values.device)
    before = (values > values[:, None]) | ((values == values[:, None]) & (row < row[:, None]))
    return (_same(group) & before).sum(1) + 1.0


def best_of_group(batch: Batch) -> FloatN:
    """1 for the first of the rows with a group's highest reward, 0 for the others, (N,)."""
    return (places(batch.rewards, batch.group) == 1).float()


def likelihood(batch: Batch, logprobs: FloatNT) -> tuple[FloatN, FloatN]:
    """log π(y|x) of each row, (N,), and the size of what it adds up, by which `functional.preferred` knows a tie."""
    kept = torch.where(batch.mask, logprobs, 0.0)
    return kept.sum(1), kept.abs().sum(1)
