"""The algorithm `unlikelihood`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo_unpaired.shared import tell_of_one_kind


@dataclass(frozen=True)
class Unlikelihood:
    """Unlikelihood training: say what desirable answers say, token by token, and not what the others do.

    -log π(y_t) for each token of a desirable answer, -α·log(1 - π(y_t)) for each token of another one, averaged over
    tokens.

    Welleck et al. 2019 (arXiv:1908.04319) sec. 4, whose code was read: 1 - π is held above 10⁻⁵, and both terms share
    one mean over tokens; on labelled answers Li et al. 2019 (arXiv:1911.03860). There is no reference: a token that is
    improbable already is left alone.
    """

    alpha: Annotated[float, Ge(0)] = 1.0
    """α, the weight of undesirable answers."""
    threshold: float = 0.5
    """A completion whose score is above it is desirable."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[str] = "row"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.1, 10.0)}

    def check(self, context: CheckContext) -> None:
        """Warn where the data have answers of one kind alone."""
        tell_of_one_kind(context, self.threshold)

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        good = (batch.rewards > self.threshold)[:, None]
        logprobs = torch.where(batch.mask, out.logprobs, 0.0)
        others = torch.log((1 - logprobs.exp()).clamp(min=1e-5))
        return Terms(torch.where(good, -logprobs, -self.alpha * others), {"nll": -logprobs * good})
