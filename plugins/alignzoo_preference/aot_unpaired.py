"""Optimizer `aot-unpaired`: alignment via optimal transport, on answers that need not be of one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alignzoo.twins import Twin
from alignzoo_preference.aot import AOT
from alignzoo_preference.pairs import Pairs


@dataclass(frozen=True)
class UnpairedAOT(AOT):
    """Alignment via optimal transport: good answers' log-ratios, as a distribution, dominate bad answers'.

    -(1-ε)·log σ(β·δᵢ) - ε·log σ(-β·δᵢ), δᵢ = w₍ᵢ₎ - l₍ᵢ₎ of the minibatch's log-ratios w of better and l of worse
    answers, log π(y|x)/π_ref(y|x), each sorted by itself.

    Melnyk et al. 2024 (arXiv:2406.05882) sec. 3; TRL's loss_type "aot_unpaired". As there, a minibatch has as many good
    answers as bad ones.
    """

    def leads(self, pairs: Pairs) -> Tensor:
        better, worse = pairs.log_ratio.sort(1).values
        return better - worse

    def oracle(self) -> Twin:
        return Twin(
            "trl",
            "alignzoo_trl.pairs:dpo",
            {"loss_types": ["aot_unpaired"], "beta": self.beta, "label_smoothing": self.label_smoothing},
        )
