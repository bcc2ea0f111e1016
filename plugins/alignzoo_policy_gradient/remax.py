"""The optimizer `remax` on a page, and the sampler `and-greedy` that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, Forward, Group, PluginError, Policy, Prompt, Terms
from alignzoo import functional as fn
from alignzoo.decoding import Decoding
from alignzoo.interfaces import CheckContext
from alignzoo_policy_gradient.base import PenalizedReward

COLUMN = "greedy"
"""1 for the greedy answer, 0 for those that were sampled."""


@dataclass(frozen=True)
class AndGreedy:
    """The policy's n answers to each prompt, and after them its greedy one, marked by the column `greedy`."""

    n: Annotated[int, Ge(1)] = 1
    """Sampled answers per prompt."""
    online: ClassVar[bool] = True
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        sampled = policy.generate(prompts, self.n, seeds=seeds)
        greedy = policy.generate(prompts, 1, seeds=seeds, decoding=Decoding(greedy=True))
        return [_beside(some, one) for some, one in zip(sampled, greedy, strict=True)]


def _beside(sampled: Group, greedy: Group) -> Group:
    """Without log-probabilities, with which the greedy answer would count as a sample."""
    last = tuple(replace(each, logprobs=None) for each in greedy.completions)
    flags = (0.0,) * len(sampled.completions) + (1.0,)
    return replace(sampled, completions=sampled.completions + last, extra={COLUMN: flags})


@dataclass(frozen=True)
class ReMax(PenalizedReward):
    """REINFORCE whose baseline is what the policy's greedy answer is worth: no critic, and one sample is enough.

    -(R - r(greedy))·log π(y|x), R = r - β·Σ_t (log π_old - log π_ref), averaged over sampled answers.

    Li et al. 2023 (arXiv:2310.10505) algorithm 2; as in verl the KL is the sample's alone. One update per batch, and so
    no ratio. A prompt whose greedy answer has no reward has no baseline, and is left out.
    """

    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs"} | ({"old_logprobs", "ref_logprobs"} if self.kl else set()))

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the greedy answers."""
        if not context.brings(COLUMN):
            raise PluginError(
                "remax takes the greedy answer's reward for its baseline, and the stage's sampler brings none: set "
                "sampler=and-greedy, or take a method whose baseline are the other samples"
            )

    def prepare(self, batch: Batch) -> Batch:
        greedy = batch.extra.get(COLUMN, torch.zeros_like(batch.rewards))
        found = fn.group_mean(greedy, batch.group)
        baseline = fn.group_mean(greedy * batch.rewards, batch.group) / found.clamp(min=1e-6)
        advantages = batch.rewards - self.penalty(batch).sum(1) - baseline
        weights = fn.sequence_sum(batch.mask) * (1 - greedy)[:, None]
        return replace(batch, advantages=advantages, weights=weights).select((found > 0) & (greedy < 1))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs * fn.token_column(batch.advantages, batch.mask))
