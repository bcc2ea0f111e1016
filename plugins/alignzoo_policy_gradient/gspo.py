"""The optimizer `gspo`: a setting of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo_policy_gradient.arithmetic import Level
from alignzoo_policy_gradient.grpo import GRPO


@dataclass(frozen=True)
class GSPO(GRPO):
    """Group sequence policy optimization: the ratio is the sequence's, as the reward is.

    1/G·Σ_i -min(s·A, clip(s, 1-ε, 1+ε')·A), s = (π(y|x)/π_old(y|x))^(1/|y|), A the group's z-score.

    Zheng et al. 2025 (arXiv:2507.18071) eq. 5 and 7, with the ε of sec. 5.1: a mean of log-ratios is small, and so is
    its clip, which drops whole sequences. TRL: `importance_sampling_level="sequence"`, whose own ε is 0.2. No KL.
    """

    kl: Annotated[float, Ge(0)] = 0.0
    """β, the weight of the KL to the reference in the loss; the paper has none."""
    clip: Annotated[float, Gt(0)] = 3e-4
    """ε, by which the sequence's ratio is clipped below 1."""
    clip_high: Annotated[float, Ge(0)] = 4e-4
    """ε', by which the sequence's ratio is clipped above 1."""
    level: Level = "sequence"
    """The ratio of each token, or of the sequence: the geometric mean of its tokens' ratios."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (1e-4, 1e-2), "clip_high": (1e-4, 1e-2)}
