"""Optimizer `reverse-kd`: on-policy distillation by the whole reverse KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from alignzoo_distillation.gkd import GKD


@dataclass(frozen=True)
class ReverseKD(GKD):
    """KL(π ‖ π_T) over the whole vocabulary at each token of the policy's own text: it finds a mode of the teacher.

    Agarwal et al. 2024 (arXiv:2306.13649) sec. 3, the generalised divergence's limit β → 1. Unlike MiniLLM (Gu et al.,
    arXiv:2306.08543) no gradient goes through what is sampled: each token's divergence is its own.
    """

    beta: Annotated[float, Ge(0), Le(1)] = 1.0
    """β: 1 is the reverse KL."""
