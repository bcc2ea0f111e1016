"""The optimizer `prime` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.base import ClippedGroup


@dataclass(frozen=True)
class PRIME(ClippedGroup):
    """Process reinforcement through implicit rewards: outcomes and steps are credited apart, then added.

    The clipped surrogate with A_t = r_i - r̄_{-i} + w·Σ_{s ≥ t} (p_{i,s} - p̄_{-i}): r the outcome, p the dense reward of
    a token, p̄_{-i} the mean over the other answers of the group of their tokens' mean; averaged over all tokens.

    Cui et al. 2025 (arXiv:2502.01456) eq. 5. Their code, which was read, has p·n/(n-1) less the sum of all means over
    n - 1, and whitens A over the batch. The reward `implicit-prm` brings p, of a model that theirs trains in every
    step and the recipe `prime` once a round. Without dense rewards A is the leave-one-out advantage of each answer.
    """

    process: Annotated[float, Ge(0)] = 1.0
    """w, the weight of the dense rewards' part."""

    laws: ClassVar[Mapping[str, str]] = {"dense_rewards": "with a sequence's ratio no token is credited by itself"}

    def credit(self, batch: Batch) -> FloatNT:
        outcome = fn.token_column(batch.rewards - fn.leave_one_out(batch.rewards, batch.group), batch.mask)
        if batch.token_rewards is None:
            return outcome
        dense = torch.where(batch.mask, batch.token_rewards, 0.0)
        mean = dense.sum(1) / batch.mask.sum(1).clamp(min=1)
        centred = (dense - fn.leave_one_out(mean, batch.group)[:, None]) * batch.mask
        to_go = centred.flip(1).cumsum(1).flip(1) * batch.mask
        return outcome + self.process * to_go
