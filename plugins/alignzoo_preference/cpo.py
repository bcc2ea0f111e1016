"""Optimizer `cpo`: contrastive preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import PairLoss, Pairs


@dataclass(frozen=True)
class CPO(PairLoss):
    """Contrastive preference optimization: a uniform reference, which cancels, and the likelihood of the better answer.

    -(1-ε)·log σ(m) - ε·log σ(-m) - α·(1/|yw|)·log π(yw|x), m = β·(log π(yw|x) - log π(yl|x)).

    Xu et al. 2024 (arXiv:2401.08417) eq. 3; TRL's `CPOTrainer` with the loss_type "sigmoid", `cpo_alpha` for α and
    `label_smoothing` for ε. The last term is a mean over an answer's tokens here, and over the batch's tokens there.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Scale of the log-probability, the implicit reward."""
    nll: Annotated[float, Ge(0)] = 1.0
    """α: weight of the better answer's negative log-likelihood per token."""
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """ε: assumed share of preferences that are the wrong way round."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5), "nll": (0.1, 2.0)}
    laws: ClassVar[Mapping[str, str]] = {
        "label_smoothing": "ε smooths the comparison; the likelihood term is that of the better answer all the same"
    }

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        margin, likelihood = better - worse, pairs.logprob[0] / pairs.length[0]
        comparison = -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)
        return comparison - self.nll * likelihood

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.logprob

    def oracle(self) -> Twin:
        settings = {"beta": self.beta, "nll": self.nll, "label_smoothing": self.label_smoothing}
        return Twin("trl", "alignzoo_trl.pairs:cpo", settings, alike=True)
