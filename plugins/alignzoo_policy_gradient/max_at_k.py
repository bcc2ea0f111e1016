"""The optimizer `max-at-k` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignzoo import Batch
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class MaxAtK(ClippedGroup):
    """The best of a group is what counts: each answer is credited with what the best would lose without it.

    The clipped surrogate with A_i = max_j r_j - max_{j≠i} r_j: the lead of the best answer, and 0 for all others.

    Tang et al. 2025 (arXiv:2503.19595), the leave-one-out estimate for the best of k; verl's `grpo_passk`, which
    also divides by the group's standard deviation. Averaged over all tokens. Where two answers share the first place,
    nothing is taught: of right-or-wrong rewards a group with one right answer alone counts, at an accuracy of p a share
    of 8 p (1 - p)⁷ of the groups of eight, 34 % at 0.2, but 9 % at 0.4 and 3 % at 0.5. So 60 steps on `sort` raise the
    accuracy from 0.40 to 0.50, where credit for every right answer reaches 0.78.
    """

    laws: ClassVar[Mapping[str, str]] = {"loser_falls": "only the best answer of a group is credited"}

    def credit(self, batch: Batch) -> FloatN:
        leads, start = [batch.rewards.new_zeros(0)], 0
        for size in batch.group_sizes().tolist():
            rewards = batch.rewards[start : start + size]
            first, second = rewards.topk(2).values if size > 1 else rewards[[0, 0]]
            leads.append(torch.where(rewards == first, first - second, 0.0))
            start += size
        return torch.cat(leads)
