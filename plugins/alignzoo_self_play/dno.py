"""The algorithm `dno`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn
from alignzoo_self_play.wins import Wins, win_rates


@dataclass(frozen=True)
class DNO:
    """Direct Nash optimization: a contrast of two answers that follows their win rates.

    -σ(w_i - w_j)·log σ(d) - σ(w_j - w_i)·log σ(-d), d = η·(log π(y_i)/π_t(y_i) - log π(y_j)/π_t(y_j)), w the win rate
    against the answers of the group, over all pairs of a group.

    Rosset et al. 2024 (arXiv:2404.03715) algorithm 1, eq. 8, which was read. π_t is the reference, which has generated
    the answers: the policy at the start of a round. Their practical variant is DPO on pairs far enough apart, some with
    a teacher's answer.
    """

    eta: Annotated[float, Gt(0)] = 0.1
    """η: the smaller, the farther a round goes."""
    wins: Wins = "bradley-terry"
    """P of two answers: σ(r_i - r_j) of their rewards; or "score": each reward is a win rate, as a judge's."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "eta"
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"eta": (0.01, 1.0)}

    def prepare(self, batch: Batch) -> Batch:
        batch = batch.select(fn.group_size(batch.group) > 1)
        return replace(batch, extra={**batch.extra, "wins": win_rates(batch, self.wins)})

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.all_pairs(batch)
        share = torch.sigmoid(pairs.gap(batch.extra["wins"]))
        gap = pairs.gap(rankings.implicit_reward(batch, out.logprobs, self.eta))
        cost = -share * logsigmoid(gap) - (1 - share) * logsigmoid(-gap)
        return Terms(pairs.means(cost), {"margin": pairs.means((2 * share - 1).sign() * gap)})
