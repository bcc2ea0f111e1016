"""The optimizer `dppo` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt

from alignzoo import Batch, Forward, Terms
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.arithmetic import importance_ratio, token_advantages
from alignzoo_policy_gradient.base import GroupRelative


@dataclass(frozen=True)
class DPPO(GroupRelative):
    """Divergence proximal policy optimization: the trust region is one of probabilities, not of ratios.

    1/Σ|y|·Σ -M·[min(ρ, c)]·A·log π, [·] without gradient; M is 0 where |π(y_t) - π_old(y_t)| > δ and A pushes farther
    out, 1 elsewhere; A the group's z-score.

    arXiv:2602.04879, "Binary-TV": the total variation between the two policies, each told by the sampled token and all
    others together. Rare tokens, whose ratio leaves a clip at once, stay in; likely ones are held. The gradient is that
    of [ρ]·log π, as in verl and TRL; c = 20 is verl's.
    """

    divergence: Annotated[float, Gt(0)] = 0.2
    """δ: how far the token's probability may go in the direction of its advantage."""
    cap: Annotated[float, Gt(0)] = 20.0
    """c, the most that the ratio weighs."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"divergence": (0.02, 0.5)}
    laws: ClassVar[Mapping[str, str]] = {
        "ratios": "its trust region is one of probabilities, which no shift leaves alone"
    }

    def distance(self, new: FloatNT, old: FloatNT) -> FloatNT:
        """How far apart two policies are, told by their probabilities of one token."""
        return (new - old).abs()

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        advantages = token_advantages(batch)
        new, old = out.logprobs.detach().exp() * batch.mask, batch.old_logprobs.exp() * batch.mask
        outward = torch.where(advantages > 0, new > old, new < old)
        masked = outward & (self.distance(new, old) > self.divergence) & batch.mask
        weight = importance_ratio(batch, out).detach().clamp(max=self.cap) * ~masked
        return Terms(-weight * advantages * out.logprobs, {"clip_fraction": masked.float()})
