"""The algorithm `sft`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: imitate the best completion of each group.

    -log π(y | x), averaged over the tokens of the best completions.

    Ouyang et al. 2022 (arXiv:2203.02155) sec. 3.5. On a pair it learns from the better answer only; with a policy
    that writes n completions and a reward it is best-of-n distillation.
    """

    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[str] = "row"
    imitates: ClassVar[bool] = True

    def prepare(self, batch: Batch) -> Batch:
        chosen = fn.best(batch)
        return replace(chosen, weights=fn.token_mean(chosen.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs, {"nll": -out.logprobs})
