"""Optimizer `dr-dpo`: distributionally robust direct preference optimization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class DrDPO(ReferencePairLoss):
    """Distributionally robust direct preference optimization: pairs that fit badly, as flipped ones do, count less.

    -β'·log E exp(-L/β'), L = -log σ(β·(Δw - Δl)), Δ = log π(y|x) - log π_ref(y|x); E is the mean over the minibatch.

    Wu et al. 2024 (arXiv:2407.07880). The larger β', the nearer to the mean of L. Each process takes the mean over
    its own share of a minibatch.
    """

    beta_prime: Annotated[float, Gt(0)] = 1.0
    """β': the larger, the more are pairs that fit badly believed."""
    couples: ClassVar[str] = "minibatch"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5), "beta_prime": (0.1, 10.0)}

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        fit = logsigmoid(better - worse) / self.beta_prime
        return -self.beta_prime * (fit.logsumexp(0) - math.log(len(fit))).expand(len(fit))
