"""The optimizer `ppo-ptx` on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, Forward, Terms
from alignzoo.interfaces import CheckContext
from alignzoo_policy_gradient.demonstrations import COLUMN, check_sampler, is_demonstration, weigh_apart
from alignzoo_policy_gradient.ppo import PPO


@dataclass(frozen=True)
class PPOptx(PPO):
    """PPO that does not forget: the likelihood of other text is kept up in every step.

    PPO's loss of what the policy generated + γ·(-log π of given text), each a mean over its own tokens.

    Ouyang et al. 2022, InstructGPT (arXiv:2203.02155) eq. 2, with γ = 27.8 of appendix C.4; there the text is that of
    pre-training, eight times as much as what is generated, and both are sums. The sampler `and-demonstrations` brings
    it: a file of texts by `sampler.data`, or the prompts' own answers.
    """

    ptx: Annotated[float, Ge(0)] = 27.8
    """γ, the weight of the given text's negative log-likelihood."""
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}
    laws: ClassVar[Mapping[str, str]] = {
        "zero_advantage": "given text is imitated whatever the rewards are",
        "critic": "given text teaches the critic nothing",
    }

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the text."""
        check_sampler("ppo-ptx", context)

    def prepare(self, batch: Batch) -> Batch:
        given = is_demonstration(batch)
        prepared = super().prepare(replace(batch, mask=batch.mask & ~given[:, None]))
        return replace(prepared, mask=batch.mask, weights=weigh_apart(batch, given))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms, given = super().loss(batch, out), is_demonstration(batch)[:, None]
        loss = torch.where(given, -self.ptx * out.logprobs, terms.loss)
        return Terms(loss, {name: torch.where(given, 0.0, each) for name, each in terms.metrics.items()})
