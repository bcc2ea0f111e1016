"""The algorithm `bonbon`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn

EULER = 0.5772156649015329
"""Euler's constant: digamma(n) + it is H_{n-1}."""


@dataclass(frozen=True)
class BoNBoN:
    """BoNBoN alignment: a sample as good as the best of n, from the best and the worst of n.

    α·(-log π(y_b|x)) + (1-α)·(d - (n-1)·H_{n-1})², d = log-ratio of the best minus that of the worst to the reference,
    H_k = 1 + 1/2 + … + 1/k, over groups of n.

    Gui et al. 2024 (arXiv:2406.00832) sec. 4: in the best-of-n distribution the log-ratios of best and worst are
    (n-1)·H_{n-1} apart on average, 1/(2β) of IPO. Only the order of rewards counts. The reference has to have generated
    the n answers, as where the data are its samples, or in the first of the rounds of a recipe.
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.005
    """α, the weight of the imitation of the best; theirs, by which both terms are about as large."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.001, 0.5)}

    def prepare(self, batch: Batch) -> Batch:
        size = fn.group_size(batch.group)
        apart = (size - 1) * (torch.digamma(size.float()) + EULER)
        return fn.best_and_worst(replace(batch, extra={**batch.extra, "apart": apart}))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = rankings.implicit_reward(batch, out.logprobs, 1.0)
        margin = (ratio[0::2] - ratio[1::2]).repeat_interleave(2)  # both rows carry their pair's
        likelihood, _ = rankings.likelihood(batch, out.logprobs)
        best = likelihood[0::2].repeat_interleave(2)
        apart = (margin - batch.extra["apart"]) ** 2
        return Terms((1 - self.alpha) * apart - self.alpha * best, {"margin": margin, "loss/contrast": apart})
