"""Optimizer `distillm-reverse`: distillation by a skew reverse KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignzoo_distillation.distillm import DistiLLM


@dataclass(frozen=True)
class ReverseDistiLLM(DistiLLM):
    """KL(π ‖ α·π + (1-α)·π_T) over the whole vocabulary at each token, averaged over the tokens: it seeks a mode.

    Ko et al. 2024 (arXiv:2402.03898) sec. 3.1, the skew reverse KL, which they take where the policy's own text is
    trained on.
    """

    answer: ClassVar[str] = "skew_reverse_kl"
