"""Optimizer `simpo`: simple preference optimization, without a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import PairLoss, Pairs


@dataclass(frozen=True)
class SimPO(PairLoss):
    """Simple preference optimization: the mean log-probability of an answer's tokens is its reward.

    -log σ(β·(s̄w - s̄l) - γ) - α·s̄w, s̄ = (1/|y|)·log π(y|x) of the better and the worse answer.

    Meng et al. 2024 (arXiv:2405.14734) eq. 6, where α is 0; β and γ are theirs for Llama 3 Base. TRL's `CPOTrainer`
    with the loss_type "simpo" and `cpo_alpha` for α, whose last term is a mean over all tokens of the batch's better
    answers.
    """

    beta: Annotated[float, Gt(0)] = 2.0
    """Scale of the length-normalised log-probability, the implicit reward."""
    gamma: Annotated[float, Ge(0)] = 1.0
    """γ: by how much the better answer has to win in implicit reward."""
    nll: Annotated[float, Ge(0)] = 0.0
    """α: weight of the better answer's negative log-likelihood per token."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (1.0, 10.0), "gamma": (0.3, 2.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse - self.gamma) - self.nll * better / self.beta

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.logprob / pairs.length

    def oracle(self) -> Twin:
        settings = {"loss_type": "simpo", "mean": True, "beta": self.beta, "simpo_gamma": self.gamma, "nll": self.nll}
        return Twin("trl", "alignzoo_trl.pairs:cpo", settings, alike=self.nll > 0)
