"""Optimizer `rpo`: direct preference optimization with a likelihood term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class RPO(ReferencePairLoss):
    """Reasoning preference optimization: a preference loss, and the likelihood of the better answer.

    -log σ(β·(Δw - Δl)) - α·(1/|yw|)·log π(yw|x), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Pang et al. 2024 (arXiv:2404.19733) eq. 1, whose rounds are a recipe's rounds; Liu et al. 2024 (arXiv:2405.16436)
    prove that the second term regularizes. TRL's loss_type ["sigmoid", "sft"] takes the mean of that term over all
    tokens of the batch's better answers, not over each answer's and then over answers.
    """

    nll: Annotated[float, Ge(0)] = 1.0
    """α: weight of the better answer's negative log-likelihood per token."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse) - self.nll * pairs.logprob[0] / pairs.length[0]

    def oracle(self) -> Twin:
        settings = {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, self.nll], "beta": self.beta}
        return Twin("trl", "alignzoo_trl.pairs:dpo", settings, alike=True)
