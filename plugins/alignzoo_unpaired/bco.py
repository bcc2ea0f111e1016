"""The algorithm `bco`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, StepReport, Terms, rankings


@dataclass(frozen=True)
class BCO:
    """Binary classifier optimization: a classifier of thumbs up and thumbs down, whose logit is the implicit reward.

    -log σ(r̂ - δ) of a desirable answer, -log σ(-(r̂ - δ)) of another one; r̂ = β·log π(y|x)/π_ref(y|x), δ the running
    mean of r̂.

    Jung et al. 2024 (arXiv:2404.04656) eq. 9, the reward shift as TRL had it: the mean over all answers so far, here
    without those of the present step. Without their optional weights for prompts of another distribution.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    threshold: float = 0.5
    """A completion whose score is above it is desirable."""
    delta: float = 0.0
    """δ, where the classifier parts good from bad: each step's successor carries it on."""
    seen: Annotated[float, Ge(0)] = 0.0
    """How many answers δ is the mean of."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        sign = torch.where(batch.rewards > self.threshold, 1.0, -1.0)
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        margin = sign * (reward - self.delta)
        return Terms(-logsigmoid(margin), {"implicit": reward, "accuracy": (margin > 0).float()})

    def next(self, report: StepReport) -> BCO:
        """With this step's answers in the mean."""
        if "implicit" not in report.metrics:
            return self  # nothing was trained
        new = report.metrics["completions"]
        seen = self.seen + new
        return replace(self, delta=self.delta + (report.metrics["implicit"] - self.delta) * new / seen, seen=seen)
