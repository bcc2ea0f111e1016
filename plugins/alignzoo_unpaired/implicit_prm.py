"""The algorithm `implicit-prm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from alignzoo_unpaired.pointwise import PointwiseDPO


@dataclass(frozen=True)
class ImplicitPRM(PointwiseDPO):
    """A process reward model from right and wrong answers alone.

    -z·log σ(r̂) - (1-z)·log σ(-r̂), r̂ = β·Σ_t log π(y_t|·)/π_ref(y_t|·), z = 1 where the answer is right.

    Yuan et al. 2024 (arXiv:2412.01981), the cross-entropy form: a reward that is such a ratio says how good each step
    is, though only outcomes were labelled: a step's reward is the ratio of its own tokens.
    """

    beta: Annotated[float, Gt(0)] = 0.05
    """The size of the reward per nat of the log-ratio."""
