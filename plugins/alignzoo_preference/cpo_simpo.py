"""Optimizer `cpo-simpo`: simple preference optimization with a likelihood term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from alignzoo_preference.simpo import SimPO


@dataclass(frozen=True)
class CPOSimPO(SimPO):
    """Simple preference optimization with contrastive preference optimization's likelihood term.

    -log σ(β·(s̄w - s̄l) - γ) - α·s̄w, s̄ = (1/|y|)·log π(y|x) of the better and the worse answer.

    Meng et al. 2024 (arXiv:2405.14734) with the term of Xu et al. 2024 (arXiv:2401.08417).
    A preset, after the combination of both methods in TRL's `CPOTrainer` (loss_type "simpo", `cpo_alpha` above 0):
    `simpo` with an `nll` above 0.
    """

    nll: Annotated[float, Ge(0)] = 1.0
    """α: weight of the better answer's negative log-likelihood per token."""
