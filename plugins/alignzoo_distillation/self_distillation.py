"""Optimizer `self-distillation`: the policy, shown a right answer, teaches itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from alignzoo import Batch, Forward, PluginError, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo_distillation.shown_answer import ShownAnswer


@dataclass(frozen=True)
class SelfDistillation:
    """Self-distillation: the policy, shown a right answer d, is the teacher of itself that was not.

    -ρ·A_t, A_t = r_t - log π_old/π_T(y_t | x, y_<t), averaged over the tokens of the policy's own answers, r_t as the
    sampler `shown-answer` has it: so A_t = log π_T(y_t | x, d, y_<t) - log π_old(y_t | x, y_<t), each token's own part
    of the reverse KL to the teacher.

    Zhao et al. 2026, OPSD (arXiv:2601.18734), whose teacher is the policy at the start, here the reference; Shenfeld
    et al. 2026, SDFT (arXiv:2601.19897), whose teacher is its moving average. This is the form for sampled tokens,
    as TRL's `distillation_mode="sampled_token"`, which was read; both papers have divergences over the whole
    vocabulary, too.
    """

    follows: Annotated[float, Ge(0), Le(1)] = 0.0
    """How much of the policy the teacher takes after each step: 0 leaves it at the start, 0.05 is a moving average."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    laws: ClassVar[Mapping[str, str]] = {"every_token": "each token is told its own part of the divergence alone"}

    def check(self, context: CheckContext) -> None:
        """Raise where the teacher is shown nothing."""
        if not isinstance(context.sampler, ShownAnswer):
            raise PluginError(
                "self-distillation is taught by the policy that was shown a right answer, and the stage's sampler "
                "shows it none: set sampler=shown-answer, on data with answers (data.kind=demonstrations)"
            )

    def follow(self, step: int) -> Mapping[str, float]:
        return {"ref": self.follows} if self.follows else {}

    def prepare(self, batch: Batch) -> Batch:
        rewards = fn.at_last_token(batch.rewards, batch.mask)
        if batch.token_rewards is not None:
            rewards = rewards + batch.token_rewards
        advantages = rewards - fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask)
        return replace(batch, advantages=advantages, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(-ratio * batch.advantages, {"teacher/kl": -batch.advantages})
