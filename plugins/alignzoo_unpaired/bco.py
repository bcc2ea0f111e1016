"""The algorithm `bco`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, StepReport, Terms, rankings
from alignzoo_unpaired.shared import Labelled


@dataclass(frozen=True)
class BCO(Labelled):
    """Binary classifier optimization: a classifier of thumbs up and thumbs down, whose logit is the implicit reward.

    -log σ(r̂ - δ) of a desirable answer, -log σ(-(r̂ - δ)) of another one; r̂ = β·log π(y|x)/π_ref(y|x), δ the running
    mean of r̂.

    Jung et al. 2024 (arXiv:2404.04656), the binary cross-entropy with their reward shift, as TRL had it: the mean over
    all answers so far, here without those of the present step. Without their optional weights for prompts of another
    distribution.
    """

    delta: float = 0.0
    """δ, where the classifier parts good from bad: each step's successor carries it on."""
    seen: Annotated[float, Ge(0)] = 0.0
    """How many answers δ is the mean of."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        margin = self.margin(batch, out, self.delta)
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        return Terms(-logsigmoid(margin), {**self.figures(batch, out, margin), "implicit": reward})

    def next(self, report: StepReport) -> BCO:
        """With this step's answers in the mean."""
        if "implicit" not in report.metrics:
            return self  # nothing was trained
        new = report.metrics["completions"]
        seen = self.seen + new
        return replace(self, delta=self.delta + (report.metrics["implicit"] - self.delta) * new / seen, seen=seen)
