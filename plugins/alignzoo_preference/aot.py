"""Optimizer `aot`: alignment via optimal transport, on paired answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class AOT(ReferencePairLoss):
    """Alignment via optimal transport: the policy's margins, as a distribution, dominate the reference's.

    -(1-ε)·log σ(β·δᵢ) - ε·log σ(-β·δᵢ), δᵢ = m₍ᵢ₎ - n₍ᵢ₎ of the minibatch's margins m = log π(yw|x)/π(yl|x) and
    n = log π_ref(yw|x)/π_ref(yl|x), each sorted by itself.

    Melnyk et al. 2024 (arXiv:2406.05882) sec. 3; TRL's loss_type "aot". Each process sorts its own share of a
    minibatch.
    """

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Assumed share of preferences that are the wrong way round."""
    couples: ClassVar[str] = "minibatch"

    def cost(self, pairs: Pairs) -> Tensor:
        lead = self.beta * self.leads(pairs)  # the terms of a minibatch add up, whichever rows they stand on
        return -(1 - self.label_smoothing) * logsigmoid(lead) - self.label_smoothing * logsigmoid(-lead)

    def leads(self, pairs: Pairs) -> Tensor:
        """How far each quantile of what should be larger is above that of what should be smaller, (P,)."""
        policy, reference = (each[0] - each[1] for each in (pairs.logprob, pairs.logprob - pairs.log_ratio))
        return policy.sort().values - reference.sort().values

    def oracle(self) -> Twin:
        return Twin(
            "trl",
            "alignzoo_trl.pairs:dpo",
            {"loss_types": ["aot"], "beta": self.beta, "label_smoothing": self.label_smoothing},
        )
