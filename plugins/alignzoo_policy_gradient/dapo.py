"""The optimizer `dapo`: a setting of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from alignzoo_policy_gradient.arithmetic import Reduction
from alignzoo_policy_gradient.grpo import GRPO


@dataclass(frozen=True)
class DAPO(GRPO):
    """Decoupled clip and dynamic sampling policy optimization: what it trains by.

    1/Σ|y|·Σ -min(ρ·A, clip(ρ, 1-0.2, 1+0.28)·A), over all tokens alike; A the group's z-score, no KL.

    Yu et al. 2025 (arXiv:2503.14476) eq. 8. The rest of DAPO is no matter of the loss: dynamic sampling (eq. 11) is the
    sampler `dynamic`, the soft punishment of long answers (eq. 13) a reward.
    """

    kl: Annotated[float, Ge(0)] = 0.0
    """β, the weight of the KL to the reference in the loss; the paper has none."""
    clip_high: Annotated[float, Ge(0)] = 0.28
    """The upper clip, wider than the lower one: unlikely tokens may rise."""
    reduction: Reduction = "token"
    """Mean over all tokens of the batch."""
