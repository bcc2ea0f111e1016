"""Optimizer `npo`: negative preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, DataError, Forward, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext


@dataclass(frozen=True)
class NPO:
    """Negative preference optimization: bad answers alone, unlearnt ever more gently as they become unlikely.

    -(2/β)·log σ(-β·log π(y|x)/π_ref(y|x)) of each answer whose reward is below a threshold.

    Zhang et al. 2024 (arXiv:2404.05868). β → 0 is gradient ascent on the bad answers' negative log-likelihood. What
    should be kept is kept by other data: the paper's variants with a retain set train on it by another stage or loss.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """How soon unlearning ends: the larger, the sooner an answer counts as forgotten."""
    threshold: float = 0.5
    """An answer is unlearnt whose reward is below it."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0)}
    laws: ClassVar[Mapping[str, str]] = {
        "every_token": "it reads bad answers alone, and raises none (arXiv:2404.05868)"
    }

    def check(self, context: CheckContext) -> None:
        """Raise DataError where the data have no bad answer to be unlearnt."""
        if not context.online and context.sides(self.threshold) == {True}:
            raise DataError(
                f"no answer that was looked at is below optimizer.threshold={self.threshold:g}, and only such are "
                "unlearnt: give data with bad answers, as pairs or with labels, or a higher threshold"
            )

    def prepare(self, batch: Batch) -> Batch:
        return batch.select(batch.rewards < self.threshold)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask).sum(1)  # (N,)
        return Terms(-2 / self.beta * logsigmoid(-self.beta * log_ratio), {"log_ratio": log_ratio})
