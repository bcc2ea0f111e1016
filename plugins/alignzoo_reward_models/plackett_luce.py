"""The algorithm `plackett-luce`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class PlackettLuce:
    """A reward model of whole rankings: the best first, then the best of the rest, and so on.

    -Σ_k log( e^{s_k} / Σ_{l ≥ k} e^{s_l} ), completions in the order of their ranks, averaged over groups.

    Zhu et al. 2023 (arXiv:2301.11270), the K-wise maximum likelihood; of pairs it is Bradley-Terry. Completions
    that are ranked alike are each compared with all that are ranked below, and not with one another.
    """

    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.ranked_pairs(batch)
        accuracy = rankings.ranked_right(pairs, out.scores, out.scores.abs())
        return Terms(rankings.plackett_luce(out.scores, batch), {"accuracy": accuracy})
