"""The algorithm `outcome-reward-model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch.nn.functional import binary_cross_entropy_with_logits

from alignzoo import Batch, DataError, Forward, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext


@dataclass(frozen=True)
class OutcomeRewardModel:
    """A verifier: how probably the answer is right, read at its end.

    -c·log σ(s) - (1-c)·log σ(-s), c = 1 where the completion is right, averaged over completions.

    Cobbe et al. 2021 (arXiv:2110.14168), in the form of Uesato et al. 2022 (arXiv:2211.14275), who
    call it an outcome-supervised reward model. Theirs says it after each token; this one after the last.
    """

    threshold: float = 0.5
    """A score above it says that the completion is right."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    couples: ClassVar[str] = "row"

    def check(self, context: CheckContext) -> None:
        """Raise DataError where the data have answers of one kind alone, of which nothing can be learnt."""
        if not context.online and len(sides := context.sides(self.threshold)) == 1:
            kind = "right" if True in sides else "wrong"
            raise DataError(
                f"all answers of the data are {kind}, as far as they were looked at (optimizer.threshold="
                f"{self.threshold:g}), and so a verifier could learn nothing but to say so: give labels of both kinds"
            )

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        right = (batch.rewards > self.threshold).float()
        cost = binary_cross_entropy_with_logits(out.scores, right, reduction="none")
        size = torch.zeros_like(out.scores)
        return Terms(cost, {"accuracy": fn.preferred((2 * right - 1) * out.scores, size)})
