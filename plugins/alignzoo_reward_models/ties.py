"""The algorithm `ties-reward-model`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings


@dataclass(frozen=True)
class TiesRewardModel:
    """A reward model that also learns from ties: Bradley-Terry as Rao and Kupper extended it.

    P(i ≻ j) = σ(d - log θ) and P(i ~ j) = (θ² - 1)·σ(d - log θ)·σ(-d - log θ), d = s_i - s_j; -log of what was said of
    each pair, averaged over all pairs of a group.

    Rao and Kupper 1967; for reward models Liu et al. 2024 (arXiv:2410.05328), for preference optimization Chen et al.
    2024 (arXiv:2409.17431). Two completions are tied where the data's scores are equal.
    """

    threshold: Annotated[float, Gt(0)] = 0.7
    """log θ: how far apart scores have to be for the difference to be seen; towards 0, nothing is tied."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"threshold": (0.05, 3.0)}

    def prepare(self, batch: Batch) -> Batch:
        size = torch.unique_consecutive(batch.group, return_counts=True)[1]
        return batch.select(torch.repeat_interleave(size, size) > 1)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.all_pairs(batch)
        sign = pairs.gap(batch.rewards).sign()
        gap = pairs.gap(out.scores)
        won = logsigmoid(sign * gap - self.threshold)
        two = math.log(math.expm1(2 * self.threshold))  # log(θ² - 1)
        tied = two + logsigmoid(gap - self.threshold) + logsigmoid(-gap - self.threshold)
        cost = -torch.where(sign == 0, tied, won)
        return Terms(pairs.means(cost), {"margin": pairs.means(sign * gap), "tied": pairs.means((sign == 0).float())})
