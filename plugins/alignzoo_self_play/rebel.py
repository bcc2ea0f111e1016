"""The algorithm `rebel`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class REBEL:
    """Regression to relative rewards: how much likelier an answer has become is how much better it is.

    ( (log π(y_i)/π_t(y_i) - log π(y_j)/π_t(y_j))/η - (r_i - r_j) )², over all pairs of a group.

    Gao et al. 2024 (arXiv:2404.16767) algorithm 1: π_t, the policy at the start of the step, has generated
    the answers; each step is one of their iterations. Theirs has two answers of each prompt.
    """

    eta: Annotated[float, Gt(0)] = 1.0
    """η, the step's size: by how many nats two answers part for a difference of 1 in reward."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"eta": (0.1, 100.0)}

    def prepare(self, batch: Batch) -> Batch:
        return batch.select(fn.group_size(batch.group) > 1)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.all_pairs(batch)
        moved = rankings.implicit_reward(batch, out.logprobs, 1 / self.eta, role="old")
        error = pairs.gap(moved) - pairs.gap(batch.rewards)
        return Terms(pairs.means(error**2), {"error": pairs.means(error.abs())})
