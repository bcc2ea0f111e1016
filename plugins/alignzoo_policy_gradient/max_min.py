"""The optimizer `max-min`: the worst off of several rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ClippedGroup
from alignzoo_policy_gradient.limits import tell_of_one

WORST = "worst"
"""The column of the reward that counts in this step."""


@dataclass(frozen=True)
class MaxMin(ClippedGroup):
    """Max-min alignment: in each step the reward whose mean is lowest is the one that counts.

    clip(A) of r_u, A the group's z-score, u = argmin_u of the mean of r_u over the step, among those that tell any
    answers to a prompt apart; averaged over all tokens.

    Chakraborty et al. 2024, MaxMin-RLHF (arXiv:2402.08925) algorithm 2: each reward of the run is what one group of
    people wants, all on the same scale. Theirs learns the rewards of the groups from their preferences and takes PPO;
    a run with one reward is GRPO. The recipe's weights do not count.
    """

    laws: ClassVar[Mapping[str, str]] = {
        "prefers_better": "the reward that is lowest counts, which need not be the one that tells answers apart",
        "ranking": "the order is that of the lowest reward alone",
        "sources": "whichever reward is lowest counts, whatever its weight",
    }

    def check(self, context: CheckContext) -> None:
        """Warn where there are no several rewards."""
        tell_of_one(context, "it counts in every step")

    def prepare(self, batch: Batch) -> Batch:
        telling = [each for each in batch.sources.values() if _tells(each, batch)]
        chosen = min(telling, key=torch.nanmean, default=batch.rewards)
        batch = replace(batch, extra={**batch.extra, WORST: chosen}).select(~chosen.isnan())
        credit = self.credit(replace(batch, rewards=batch.extra[WORST]))
        return replace(batch, advantages=credit, weights=self.weigh(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return Terms(terms.loss, {**terms.metrics, "worst": batch.extra[WORST]})


def _tells(values: FloatN, batch: Batch) -> bool:
    """Whether a reward tells any two answers to a prompt apart."""
    known = ~values.isnan()
    left = batch.select(known)
    return bool((values[known] != fn.group_mean(values[known], left.group)).any())
