"""The optimizer `ensemble-grpo`: several rewards that ought to agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from alignzoo import Batch, Forward, Terms
from alignzoo.interfaces import CheckContext
from alignzoo.types import FloatN
from alignzoo_policy_gradient.base import ClippedGroup
from alignzoo_policy_gradient.limits import tell_of_one

SPREAD = "disagreement"
"""The column of the variance of an answer's rewards."""


@dataclass(frozen=True)
class EnsembleGRPO(ClippedGroup):
    """GRPO on an ensemble of reward models: where they disagree, an answer is worth less.

    clip(A), A the group's z-score of mean_k r_k - λ·var_k r_k ("uncertainty"), or of min_k r_k ("worst"); averaged
    over all tokens.

    Coste et al. 2023 (arXiv:2310.02743) eq. 3 and 4, uncertainty-weighted and worst-case optimization; Eisenstein et
    al. 2023 (arXiv:2312.09244) on what ensembles do not help against. All rewards of the run are members, on the same
    scale; the recipe's weights do not count, and one that abstains is left out. One reward alone is GRPO.
    """

    combine: Literal["uncertainty", "worst"] = "uncertainty"
    """The mean less λ times the variance of the members, or the lowest of them."""
    penalty_weight: Annotated[float, Ge(0)] = 0.5
    """λ: 0 is the plain mean."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"penalty_weight": (0.01, 5.0)}
    laws: ClassVar[Mapping[str, str]] = {
        "prefers_better": "an answer that the members disagree about is worth less than another with a lower mean",
        "ranking": "where the members disagree, the order is not that of their sum",
        "sources": "all members count alike",
        "baseline": "more from one member alone is a disagreement",
    }

    def check(self, context: CheckContext) -> None:
        """Warn where there are no several rewards."""
        tell_of_one(context, "nobody to disagree with")

    def prepare(self, batch: Batch) -> Batch:
        rewards, spread = self.ensemble(batch)
        batch = replace(batch, extra={**batch.extra, SPREAD: spread})
        credit = self.credit(replace(batch, rewards=rewards))
        return replace(batch, advantages=credit, weights=self.weigh(batch.mask))

    def ensemble(self, batch: Batch) -> tuple[FloatN, FloatN]:
        """What the members say together of each answer, and the variance of what they say."""
        if not batch.sources:
            return batch.rewards, batch.rewards * 0
        said = torch.stack(list(batch.sources.values()))  # (members, N)
        said = torch.where(said.isnan().all(0), batch.rewards, said)
        mean = said.nanmean(0)
        spread = ((said - mean) ** 2).nanmean(0)
        if self.combine == "worst":
            return said.nan_to_num(nan=torch.inf).amin(0), spread
        return mean - self.penalty_weight * spread, spread

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return Terms(terms.loss, {**terms.metrics, SPREAD: batch.extra[SPREAD]})
