"""Win rates of the answers of a group."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from alignzoo import Batch, rankings
from alignzoo import functional as fn
from alignzoo.types import FloatN

Wins: TypeAlias = Literal["bradley-terry", "score"]
"""Where win rates come from: σ(r_i - r_j) of two rewards; or each reward is one, as of the reward `judge`."""


def win_rates(batch: Batch, wins: Wins) -> FloatN:
    """How probably each answer beats one of its group, its own included, (N,)."""
    if wins == "score":
        return batch.rewards
    pairs = rankings.all_pairs(batch)
    won = torch.sigmoid(pairs.gap(batch.rewards))
    total = torch.full_like(batch.rewards, 0.5)  # against itself
    total = total.index_add(0, pairs.i, won).index_add(0, pairs.j, 1 - won)
    return total / fn.group_size(batch.group)
