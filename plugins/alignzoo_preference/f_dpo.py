"""Optimizer `f-dpo`: direct preference optimization under other divergences than the reverse KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class FDPO(ReferencePairLoss):
    """Direct preference optimization under an f-divergence to the reference.

    -log σ(β·f'(uw) - β·f'(ul)), u = π(y|x)/π_ref(y|x), and f'(u), but for constants, which cancel:
    log u (reverse KL), -1/u (forward KL), log u/(1+u) (Jensen-Shannon), (1 - u^(-α))/α (α-divergence).

    Wang et al. 2023 (arXiv:2309.16240) table 1. TRL's `f_divergence_type` with the loss_type "sigmoid", whose
    `f_alpha_divergence_coef` is 1 - α here: as in the paper, α → 0 is the reverse KL and α → 1 the forward KL. As in
    TRL's α-divergence, exponents are at most 80, so that no power of u overflows.
    """

    divergence: Literal["js", "forward_kl", "alpha", "reverse_kl"] = "js"
    """What holds the policy near the reference: Jensen-Shannon, the forward KL, an α-divergence, or the reverse KL."""
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.5
    """α of the α-divergence."""

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def rewards(self, pairs: Pairs) -> Tensor:
        log_u = pairs.log_ratio
        if self.divergence == "reverse_kl":
            return self.beta * log_u
        if self.divergence == "js":
            return self.beta * logsigmoid(log_u)
        power = 1.0 if self.divergence == "forward_kl" else self.alpha
        return -self.beta / power * (-power * log_u).clamp(max=80).exp()

    def rounding(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.size.sum(0)

    def oracle(self) -> Twin:
        kind = {"js": "js_divergence", "alpha": "alpha_divergence"}.get(self.divergence, self.divergence)
        settings = {"f_divergence_type": kind, "f_alpha_divergence_coef": 1 - self.alpha, "beta": self.beta}
        return Twin("trl", "alignzoo_trl.pairs:dpo", settings)
