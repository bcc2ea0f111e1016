"""A verifier that says after every token whether the answer will be right: a scoring head at each token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch.nn.functional import binary_cross_entropy_with_logits

import alignzoo
from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class TokenVerifier:
    """-c·log σ(s_t) - (1-c)·log σ(-s_t) at each token t, c = 1 where the completion is right: the mean over tokens,
    then over completions.

    Cobbe et al. 2021 (arXiv:2110.14168) sec. 4.2: scores for each token teach more than one at the end.
    """

    threshold: float = 0.5
    """A score above it says that the completion is right."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    needs: ClassVar[frozenset[str]] = frozenset({"token_scores"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "reward-model"
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=fn.sequence_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        right = (batch.rewards > self.threshold).float()[:, None].expand(batch.mask.shape)
        cost = binary_cross_entropy_with_logits(out["token_scores"], right, reduction="none") * batch.mask
        return Terms(cost, {})


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("token-verifier", TokenVerifier)
