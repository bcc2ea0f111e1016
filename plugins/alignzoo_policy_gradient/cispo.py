"""The optimizer `cispo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo.twins import Twin
from alignzoo_policy_gradient.arithmetic import Level, importance_ratio, token_advantages
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class CISPO(GroupRelative):
    """Clipped importance sampling policy optimization: the weight is cut, no token is dropped.

    1/Σ|y|·Σ -[min(ρ, c)]·A·log π, [·] without gradient, A the group's z-score.

    MiniMax-M1 (arXiv:2506.13585) eq. 4 and 5, without a lower bound, as there. c is the ratio itself: verl's is
    1 + `clip_ratio_high`; TRL's is `epsilon_high`, which unset is 0.2 and scales the loss. The paper tunes c without
    saying it; 5 is ScaleRL's (arXiv:2510.13786) and what TRL advises.
    """

    cap: Annotated[float, Gt(0)] = 5.0
    """c, the most that the ratio weighs."""
    level: Level = "token"
    """The ratio of each token (the paper's), or the geometric mean of a sequence's."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"cap": (1.0, 10.0)}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        ratio = importance_ratio(batch, out, self.level).detach()
        cost = -ratio.clamp(max=self.cap) * token_advantages(batch) * out.logprobs
        return Terms(cost, {"cap_fraction": (ratio > self.cap).float()})

    def oracle(self) -> Twin:
        settings = {"loss_type": "cispo", "beta": self.kl, "importance_sampling_level": self.level}
        return Twin("trl", "alignzoo_trl.groups:grpo", {**settings, "epsilon_high": self.cap}, rows="groups")
