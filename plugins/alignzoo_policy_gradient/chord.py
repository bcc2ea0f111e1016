"""The optimizer `chord` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo.interfaces import CheckContext
from alignzoo_policy_gradient.base import ClippedGroup
from alignzoo_policy_gradient.demonstrations import COLUMN, check_sampler, is_demonstration, weigh_apart


@dataclass(frozen=True)
class CHORD(ClippedGroup):
    """Demonstrations and policy gradient in one step: imitation counts where the policy is neither sure nor lost.

    (1-μ)·clip(A) + μ·(-[π·(1-π)]·log π of demonstrations), each a mean over its own tokens; no gradient goes through
    the weight in brackets.

    Zhang et al. 2025 (arXiv:2508.11408), CHORD-φ with the constant μ of Trinity-RFT, whose code was read; with `phi`
    off and a μ that falls to `final_mu` it is CHORD-μ, whose μ follows a cosine where this one follows a line.
    """

    mu: Annotated[float, Ge(0), Le(1)] = 0.1
    """μ, the share of imitation, which moves from step to step where `mu_steps` says so: where it begins."""
    final_mu: Annotated[float, Ge(0), Le(1)] = 0.1
    """Where μ ends."""
    mu_steps: Annotated[int, Ge(0)] = 0
    """Steps yet to come in which μ goes to `final_mu`; 0: it stays."""
    phi: bool = True
    """Weigh a demonstration's tokens by π·(1-π)."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"mu": (0.01, 0.9)}
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}
    laws: ClassVar[Mapping[str, str]] = {
        "first_step": "a demonstration's tokens are weighed by what they are now",
        "zero_advantage": "a demonstration is imitated whatever the rewards are",
        "ratios": "a demonstration's tokens are weighed by what they are now",
    }

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings demonstrations."""
        check_sampler("chord", context)

    def prepare(self, batch: Batch) -> Batch:
        imitated = is_demonstration(batch)
        advantages = torch.where(imitated, 0.0, self.credit(batch))
        return replace(batch, advantages=advantages, weights=weigh_apart(batch, imitated))

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        imitated, terms = is_demonstration(batch)[:, None], super().surrogate(batch, out)
        chance = torch.where(batch.mask, out.logprobs, 0.0).detach().exp()
        nll = -out.logprobs * (chance * (1 - chance) if self.phi else 1.0)
        loss = torch.where(imitated, self.mu * nll, (1 - self.mu) * terms.loss)
        return Terms(loss, {**terms.metrics, "mu": torch.full_like(batch.rewards, self.mu)})

    def next(self, report: StepReport) -> CHORD:
        if not self.mu_steps:
            return self
        return replace(self, mu=self.mu + (self.final_mu - self.mu) / self.mu_steps, mu_steps=self.mu_steps - 1)
