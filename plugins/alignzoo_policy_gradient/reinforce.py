"""The optimizer `reinforce` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Le

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn
from alignzoo_policy_gradient.base import PenalizedReward


@dataclass(frozen=True)
class REINFORCE(PenalizedReward):
    """REINFORCE with a moving baseline: no critic, no group.

    -(R - b)·log π(y|x), averaged over completions; R = r - β·Σ_t (log π_old - log π_ref), b the mean R of the steps
    before, each step weighing λ times the one after it.

    Williams 1992, with the completion as one action and the KL in the reward: Ahmadian et al. 2024 (arXiv:2402.14740).
    Theirs is λ = 1, the mean of all steps, which trails behind a policy that improves.
    """

    decay: Annotated[float, Ge(0), Le(1)] = 0.9
    """λ: 0: the baseline is the last step's mean; 1: the mean of all steps."""
    baseline: float = 0.0
    """b, where the run stands: each step's successor carries it on."""
    weight: Annotated[float, Ge(0)] = 0.0
    """How many steps b stands for; 0: none yet, and the first step takes its own mean."""

    def prepare(self, batch: Batch) -> Batch:
        rewards = batch.rewards - self.penalty(batch).sum(1)  # (N,)
        baseline = self.baseline if self.weight or not len(batch) else rewards.mean()
        return replace(batch, advantages=rewards - baseline, weights=fn.sequence_sum(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs * fn.token_column(batch.advantages, batch.mask))

    def next(self, report: StepReport) -> REINFORCE:
        """With this step's mean of R in the baseline."""
        if "reward/mean" not in report.metrics:
            return self
        mean = report.metrics["reward/mean"] - self.kl * report.metrics.get("kl", 0.0)
        weight = self.decay * self.weight + 1
        return replace(self, baseline=self.baseline + (mean - self.baseline) / weight, weight=weight)
