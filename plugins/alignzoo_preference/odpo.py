"""Optimizer `odpo`: direct preference optimization with an offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class ODPO(ReferencePairLoss):
    """Direct preference optimization with an offset: an answer that is much better has to win by more.

    -log σ(β·(Δw - Δl) - α·log(rw - rl)), Δ = log π(y|x) - log π_ref(y|x), r the score of the better and worse answer.

    Amini et al. 2024 (arXiv:2402.10571), with the logarithm as the offset's scale, as in most of their experiments.
    Labels of 1 and 0 have no offset: it takes scores, of data with ratings or of a reward.
    """

    alpha: Annotated[float, Ge(0)] = 1.0
    """α: weight of the offset."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        offset = self.alpha * (pairs.score[0] - pairs.score[1]).log()
        return -logsigmoid(better - worse - offset)
