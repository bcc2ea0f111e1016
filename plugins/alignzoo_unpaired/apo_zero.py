"""The algorithm `apo-zero-unpaired`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignzoo import Batch, Forward, Terms
from alignzoo.twins import Twin
from alignzoo_unpaired.shared import Labelled


@dataclass(frozen=True)
class APOZeroUnpaired(Labelled):
    """Anchored preference optimization of single answers: desirable ones become likelier than the reference has them.

    1 - σ(β·log π/π_ref) of a desirable answer, σ(β·log π/π_ref) of another one.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266) eq. 7, each half on answers of its own, as TRL has it
    (`loss_type="apo_zero_unpaired"`). It is for data that are better than what the policy generates.
    """

    def loss(self, batch: Batch, out: Forward) -> Terms:
        margin = self.margin(batch, out)
        return Terms(torch.sigmoid(-margin), self.figures(batch, out, margin))

    def oracle(self) -> Twin:
        settings = {"loss_type": "apo_zero_unpaired", "beta": self.beta, "threshold": self.threshold}
        return Twin("trl", "alignzoo_trl.labels:kto", settings, rows="labels")
