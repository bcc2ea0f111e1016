"""On-policy distillation: what the policy itself generates is held against a teacher, by tokens or by distributions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

import alignzoo
from alignzoo import Batch, Forward, PolicySpec, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class OnPolicyDistillation:
    """-ρ·A with A = log π_T - log π_old at each token: the policy gradient of the reverse KL to a teacher π_T.

    Lu and Thinking Machines Lab 2025, "On-Policy Distillation"; each token's own KL alone is credited to it, a discount
    of 0. The tokens are the policy's own samples. Rewards are not read.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "teacher_logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        nearer = fn.log_ratio(batch["teacher_logprobs"], batch.old_logprobs, batch.mask)
        return replace(batch, advantages=nearer, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(-ratio * batch.advantages, {"teacher/kl": -batch.advantages})


@dataclass(frozen=True)
class GKD:
    """JSD_β(π_T ‖ π) over the whole vocabulary at each token, averaged over the tokens.

    Agarwal et al. 2024 (arXiv:2306.13649) eq. 1 and algorithm 1. Whose text it is says the sampler: the policy's own,
    or the data's. Rewards are not read.
    """

    teacher: PolicySpec | None = None
    """π_T, who is imitated."""
    beta: Annotated[float, Ge(0), Le(1)] = 0.5
    """β: 0 is the forward KL, 1 the reverse KL."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    couples: ClassVar[str] = "row"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"teacher_jsd:{self.beta:g}"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        (column,) = self.needs
        return Terms(out[column], {"teacher/jsd": out[column].detach()})


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("on-policy-distillation", OnPolicyDistillation)
    zoo.optimizer("gkd", GKD)
