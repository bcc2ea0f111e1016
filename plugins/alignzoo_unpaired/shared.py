"""What optimizers of labelled answers, and those of ranked ones, have in common beside their losses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from alignzoo import Batch, Forward, rankings
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo.types import FloatN

log = logging.getLogger("alignzoo")


def tell_of_one_kind(context: CheckContext, threshold: float) -> None:
    """Warn where the data have answers of one kind alone, all desirable or all not."""
    sides = frozenset() if context.online else context.sides(threshold)
    if len(sides) == 1:
        kind, way = ("desirable", "raise") if True in sides else ("undesirable", "lower")
        log.warning(
            "all answers that were looked at are %s (optimizer.threshold=%g), and so this is only told what to %s: "
            "give data with labels of both kinds", kind, threshold, way,
        )  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """Single answers, each desirable or not, and a reference."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    threshold: float = 0.5
    """A completion whose score is above it is desirable."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    couples: ClassVar[str] = "row"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0)}

    def check(self, context: CheckContext) -> None:
        """Warn where the data have answers of one kind alone."""
        tell_of_one_kind(context, self.threshold)

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def desirable_rows(self, batch: Batch) -> Tensor:
        """Which answers are desirable, (N,)."""
        return batch.rewards > self.threshold

    def margin(self, batch: Batch, out: Forward, baseline: Tensor | float = 0.0) -> FloatN:
        """±(r̂ - baseline), + of desirable answers, r̂ = β·log π(y|x)/π_ref(y|x), (N,)."""
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        return torch.where(self.desirable_rows(batch), 1.0, -1.0) * (reward - baseline)

    def figures(self, batch: Batch, out: Forward, margin: FloatN) -> dict[str, Tensor]:
        """The metrics that all of these have."""
        size = rankings.rounding(batch, out.logprobs, self.beta)
        return {"accuracy": fn.preferred(margin, size), "margin": margin}


@dataclass(frozen=True)
class Listed:
    """Groups of scored answers."""

    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)


@dataclass(frozen=True)
class ListedByReference(Listed):
    """Groups of scored answers, and a reference."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    kl_weight: ClassVar[str] = "beta"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0)}

    def reward(self, batch: Batch, out: Forward) -> FloatN:
        """r̂ = β·log π(y|x)/π_ref(y|x), (N,)."""
        return rankings.implicit_reward(batch, out.logprobs, self.beta)

    def figures(self, batch: Batch, out: Forward) -> dict[str, Tensor]:
        """The metrics that all of these have."""
        size = rankings.rounding(batch, out.logprobs, self.beta)
        return {"accuracy": rankings.ranked_right(rankings.ranked_pairs(batch), self.reward(batch, out), size)}
