"""The algorithm `pl-dpo`."""

from __future__ import annotations

from dataclasses import dataclass

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo_unpaired.shared import ListedByReference


@dataclass(frozen=True)
class PLDPO(ListedByReference):
    """Direct preference optimization on whole rankings, by the model of Plackett and Luce.

    -Σ_k log( e^{r̂_k} / Σ_{l ≥ k} e^{r̂_l} ), answers in the order of their ranks, r̂ = β·log π(y|x)/π_ref(y|x).

    Rafailov et al. 2023 (arXiv:2305.18290) app. A.3; of pairs it is DPO. Answers that are ranked alike are each
    compared with all that are ranked below, and not with one another.
    """

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(rankings.plackett_luce(self.reward(batch, out), batch), self.figures(batch, out))
