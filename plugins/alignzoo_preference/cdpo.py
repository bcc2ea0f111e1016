"""Optimizer `cdpo`: conservative direct preference optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from alignzoo_preference.dpo import DPO


@dataclass(frozen=True)
class ConservativeDPO(DPO):
    """Direct preference optimization that assumes some labels to be the wrong way round.

    -(1-ε)·log σ(β·(Δw - Δl)) - ε·log σ(-β·(Δw - Δl)), Δ = log π(y|x) - log π_ref(y|x) of the better and worse answer.

    Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO" (no arXiv number), eq. 3. A preset:
    `dpo` with a `label_smoothing` above 0. TRL's loss_type "sigmoid" ignores its `label_smoothing`.
    """

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    """Assumed share of preferences that are the wrong way round."""
