"""The algorithm `regression-reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, Terms


@dataclass(frozen=True)
class RegressionRewardModel:
    """A reward model that says the rating itself.

    (s - r)², averaged over completions.

    Wang et al. 2024, HelpSteer2 (arXiv:2406.08673), the regression model: mean squared error on ratings of each
    completion by itself. Theirs has a head for each of five attributes; this one says one number: train one of them by
    data whose scores are that attribute, or their weighted sum.
    """

    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        error = out.scores - batch.rewards
        return Terms(error**2, {"error": error.abs()})
