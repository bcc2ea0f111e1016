"""Optimizer `slic`: sequence likelihood calibration, the hinge loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from alignzoo.twins import Twin
from alignzoo_preference.pairs import Pairs, ReferencePairLoss


@dataclass(frozen=True)
class SLiC(ReferencePairLoss):
    """Sequence likelihood calibration: a hinge loss, which lets go of pairs that are far enough apart.

    max(0, δ - β·(Δw - Δl)), Δ = log π(y|x) - log π_ref(y|x) of the better and the worse answer.

    Zhao et al. 2023 (SLiC-HF, arXiv:2305.10425) sec. 2, in the form that RSO (Liu et al. 2023, arXiv:2309.06657)
    gives it and TRL's loss_type "hinge" has: SLiC-HF compares log π without a reference, and adds an SFT term
    instead.
    """

    margin: Annotated[float, Gt(0)] = 1.0
    """δ: by how much the better answer has to win in implicit reward."""

    laws: ClassVar[Mapping[str, str]] = {
        "columns_read": "a hinge pulls alike wherever the margin is not reached; the reference says where that is",
        "margin": "a larger margin does not pull more, but for longer",
    }

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return (self.margin - (better - worse)).relu()

    def oracle(self) -> Twin | None:
        return (
            None
            if self.margin != 1
            else Twin("trl", "alignzoo_trl.pairs:dpo", {"loss_types": ["hinge"], "beta": self.beta})
        )
