"""The algorithm `filtered-sft`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class FilteredSFT:
    """Filtered supervised fine-tuning: imitate every completion that is good enough.

    -1[r > threshold]·log π(y | x), averaged over the tokens of the completions that are kept.

    The loss of rejection-sampling fine-tuning (Yuan et al. 2023, arXiv:2308.01825), of ReST's improve step (Gulcehre et
    al. 2023, arXiv:2308.08998) and of ReST-EM's M-step (Singh et al. 2023, arXiv:2312.06585), on what a policy has
    generated. A group of which none is good enough teaches nothing.
    """

    threshold: float = 0.5
    """A completion whose score is above it is imitated."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        kept = batch.select(batch.rewards > self.threshold)
        return replace(kept, weights=fn.token_mean(kept.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs, {"nll": -out.logprobs})
