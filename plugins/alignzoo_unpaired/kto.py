"""The algorithm `kto`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, PluginError, Terms, rankings
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo_unpaired.mismatched import Mismatched, is_mismatched


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky optimization: what single answers are worth to somebody who hates losses.

    w·(1 - σ(±(β·log π(y|x)/π_ref(y|x) - β·z))), + of a desirable answer, - of another one. z is the KL to the
    reference: max(0, mean of log π(y'|x)/π_ref(y'|x)) over answers y' to other prompts; no gradient goes through it.

    Ethayarajh et al. 2024 (arXiv:2402.01306) eq. 7 and 8. The sampler `mismatched` brings the y'; z is the mean over
    those of the minibatch, and 0 in a first step, where policy and reference are one. Of an imbalance in the data the
    paper says: keep the weights times the numbers of desirable and undesirable answers within 1 and 3/2 of each other.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """How fast a gain or a loss loses its weight: the smaller, the further the policy may go from the reference."""
    desirable: Annotated[float, Gt(0)] = 1.0
    """w of desirable answers."""
    undesirable: Annotated[float, Gt(0)] = 1.0
    """w of the others: above 1, it hates losses more than it likes gains."""
    threshold: float = 0.5
    """A completion whose score is above it is desirable."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    couples: ClassVar[str] = "minibatch"

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the mismatched answers that z is measured by."""
        if not isinstance(context.sampler, Mismatched):
            raise PluginError(
                "kto measures its KL baseline by answers to other prompts, which the stage's sampler does not bring: "
                "set sampler=mismatched, or train with apo-zero-unpaired, which has no such baseline"
            )

    def prepare(self, batch: Batch) -> Batch:
        weight = torch.where(batch.rewards > self.threshold, self.desirable, self.undesirable)
        counted = ~is_mismatched(batch)
        share = len(batch) / counted.sum().clamp(min=1)  # the mean is over these rows alone
        return replace(batch, weights=weight * counted * share)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        others = is_mismatched(batch)
        baseline = ((reward.detach() * others).sum() / others.sum().clamp(min=1)).clamp(min=0)  # β·z
        margin = torch.where(batch.rewards > self.threshold, 1.0, -1.0) * (reward - baseline)
        accuracy = fn.preferred(margin, rankings.rounding(batch, out.logprobs, self.beta))
        metrics = {"accuracy": accuracy, "margin": margin, "baseline": baseline.expand(len(batch))}
        return Terms(torch.sigmoid(-margin), metrics)
