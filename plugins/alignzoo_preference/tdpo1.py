"""Optimizer `tdpo1`: token-level direct preference optimization, as it was derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo_preference.tdpo import TDPO


@dataclass(frozen=True)
class TDPO1(TDPO):
    """Token-level direct preference optimization with gradients through both divergences, at full weight.

    -log σ(β·(Δw - Δl) - β·(Dl - Dw)), Δ = log π(y|x) - log π_ref(y|x), D = Σₜ KL(π_ref ‖ π) of the next token.

    Zeng et al. 2024 (TDPO1, arXiv:2404.11999). `tdpo` with both gradients and an α of 1.
    """

    alpha: Annotated[float, Ge(0)] = 1.0
    """α: weight of the difference of both answers' divergences."""
    one_sided: ClassVar[bool] = False
    laws: ClassVar[Mapping[str, str]] = {
        "kl_pull": "the better answer's divergence from the reference is raised (the paper's second form mends it)"
    }
