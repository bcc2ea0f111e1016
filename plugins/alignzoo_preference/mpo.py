"""Optimizer `mpo`: mixed preference optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ShiftedPairLoss


@dataclass(frozen=True)
class MPO(ShiftedPairLoss):
    """Mixed preference optimization: which answer is better, how good each one is, and how to generate the better.

    -a·log σ(rw - rl) - b·(log σ(rw - δ) + log σ(-(rl - δ))) - c·(1/|yw|)·log π(yw|x),
    r = β·log π(y|x)/π_ref(y|x) of the better and the worse answer, δ the running mean of both answers' rewards.

    Wang et al. 2024 (arXiv:2411.10442), with their weights. TRL's loss_type ["sigmoid", "bco_pair", "sft"] leaves δ
    at 0 (`shift_rate=0`), and takes the mean of the last term over all tokens of the batch's better answers.
    """

    preference: Annotated[float, Ge(0)] = 0.8
    """a: weight of the comparison of both answers."""
    quality: Annotated[float, Ge(0)] = 0.2
    """b: weight of the classification of each answer."""
    nll: Annotated[float, Ge(0)] = 1.0
    """c: weight of the better answer's negative log-likelihood per token."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        quality = logsigmoid(better - self.shift) + logsigmoid(self.shift - worse)
        likelihood = pairs.logprob[0] / pairs.length[0]
        return -self.preference * logsigmoid(better - worse) - self.quality * quality - self.nll * likelihood

    def oracle(self) -> Twin | None:
        weights = [self.preference, self.quality, self.nll]
        settings = {"loss_types": ["sigmoid", "bco_pair", "sft"], "loss_weights": weights, "beta": self.beta}
        return None if self.shift else Twin("trl", "alignzoo_trl.pairs:dpo", settings, alike=True)
