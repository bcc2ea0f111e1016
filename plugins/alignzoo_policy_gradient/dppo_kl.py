"""The optimizer `dppo-kl` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from alignzoo.types import FloatNT
from alignzoo_policy_gradient.dppo import DPPO

TINY = 1e-7
"""Probabilities count as no closer to 0 and 1 than this, where a logarithm would be infinite."""


@dataclass(frozen=True)
class DPPOKL(DPPO):
    """DPPO with a KL in the place of the total variation.

    p·log(p/q) + (1-p)·log((1-p)/(1-q)) > δ in the mask, p = π_old(y_t), q = π(y_t).

    arXiv:2602.04879, "Binary-KL": the KL(π_old ‖ π) of the sampled token against all others together.
    """

    divergence: Annotated[float, Gt(0)] = 0.05
    """δ, in nats: how far the policies may part in the direction of the token's advantage."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"divergence": (0.005, 0.5)}

    def distance(self, new: FloatNT, old: FloatNT) -> FloatNT:
        q, p = (each.clamp(TINY, 1 - TINY) for each in (new, old))
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
