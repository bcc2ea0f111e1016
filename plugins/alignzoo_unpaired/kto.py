"""The algorithm `kto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt

from alignzoo import Batch, Forward, PluginError, Terms, rankings
from alignzoo.interfaces import CheckContext
from alignzoo.twins import Twin
from alignzoo_unpaired.mismatched import COLUMN, is_mismatched
from alignzoo_unpaired.shared import Labelled


@dataclass(frozen=True)
class KTO(Labelled):
    """Kahneman-Tversky optimization: what single answers are worth to somebody who hates losses.

    w·(1 - σ(±(β·log π(y|x)/π_ref(y|x) - β·z))), + of a desirable answer, - of another one. z is the KL to the
    reference: max(0, mean of log π(y'|x)/π_ref(y'|x)) over answers y' to other prompts; no gradient goes through it.

    Ethayarajh et al. 2024 (arXiv:2402.01306) eq. 7 and 8. The sampler `mismatched` brings the y'; z is the mean over
    those of the minibatch, and 0 in a first step, where policy and reference are one. Of an imbalance in the data the
    paper says: keep the weights times the numbers of desirable and undesirable answers within 1 and 3/2 of each other.
    """

    desirable: Annotated[float, Gt(0)] = 1.0
    """w of desirable answers."""
    undesirable: Annotated[float, Gt(0)] = 1.0
    """w of the others: above 1, it hates losses more than it likes gains."""
    couples: ClassVar[str] = "minibatch"
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the mismatched answers that z is measured by."""
        super().check(context)
        if not context.brings(COLUMN):
            raise PluginError(
                "kto measures its KL baseline by answers to other prompts, which the stage's sampler does not bring: "
                "set sampler=mismatched, or take a method of labels without such a baseline"
            )

    def prepare(self, batch: Batch) -> Batch:
        weight = torch.where(self.desirable_rows(batch), self.desirable, self.undesirable)
        counted = ~is_mismatched(batch)
        share = len(batch) / counted.sum().clamp(min=1)  # the mean is over these rows alone
        return replace(batch, weights=weight * counted * share)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward, others = rankings.implicit_reward(batch, out.logprobs, self.beta).detach(), is_mismatched(batch)
        baseline = ((reward * others).sum() / others.sum().clamp(min=1)).clamp(min=0)  # β·z
        margin = self.margin(batch, out, baseline)
        metrics = {**self.figures(batch, out, margin), "baseline": baseline.expand(len(batch))}
        return Terms(torch.sigmoid(-margin), metrics)

    def oracle(self) -> Twin:
        settings: dict[str, Any] = {"beta": self.beta, "threshold": self.threshold}
        settings |= {"desirable_weight": self.desirable, "undesirable_weight": self.undesirable}
        return Twin("trl", "alignzoo_trl.labels:kto", settings, rows="labels")
