"""Optimizer `simper`: preference optimization by inverse perplexities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alignzoo_preference.pairs import PairLoss, Pairs


@dataclass(frozen=True)
class SimPER(PairLoss):
    """Preference optimization without hyper-parameters: it raises the inverse perplexity of the better answer.

    -exp(s̄w) + exp(s̄l), s̄ = (1/|y|)·log π(y|x) of the better and the worse answer.

    Xiao et al. 2025 (arXiv:2502.00883), as in their code.
    """

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return worse - better

    def rewards(self, pairs: Pairs) -> Tensor:
        return (pairs.logprob / pairs.length).exp()
