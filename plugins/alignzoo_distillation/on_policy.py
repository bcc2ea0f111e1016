"""Optimizer `on-policy-distillation`: a policy gradient towards a teacher, token by token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class OnPolicyDistillation:
    """-ρ·A with A = log π_T - log π_old at each token: the policy gradient of the reverse KL to a teacher π_T.

    Lu and Thinking Machines Lab 2025, "On-Policy Distillation", after Agarwal et al. 2024 (arXiv:2306.13649); each
    token's own KL alone is credited to it, a discount of 0. The tokens are the policy's own samples. Rewards are not
    read.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    reads_rewards: ClassVar[bool] = False
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "teacher_logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        nearer = fn.log_ratio(batch["teacher_logprobs"], batch.old_logprobs, batch.mask)
        return replace(batch, advantages=nearer, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(-ratio * batch.advantages, {"teacher/kl": -batch.advantages})
