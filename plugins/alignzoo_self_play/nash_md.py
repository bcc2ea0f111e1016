"""Optimizer `nash-md`: mirror descent toward the Nash equilibrium of preferences, and the sampler `and-mixture`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, Group, PluginError, Policy, Prompt, Terms
from alignzoo import functional as fn
from alignzoo.decoding import Decoding
from alignzoo.interfaces import CheckContext

COLUMN = "by_mixture"


@dataclass(frozen=True)
class AndMixture:
    """One answer of the policy and one of its geometric mixture with the reference, π^(1-β)·π_ref^β token by token,
    marked by the column `by_mixture`."""

    mixture: Annotated[float, Gt(0), Le(1)] = 0.125
    """β, the reference's exponent; with 1 it is the reference that generates."""
    online: ClassVar[bool] = True
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        own = policy.generate(prompts, 1, seeds=[fn.derive(seed, "policy") for seed in seeds])
        mixed = Decoding(mix=(("ref", self.mixture),))
        others = policy.generate(prompts, 1, seeds=[fn.derive(seed, "mixture") for seed in seeds], decoding=mixed)
        return [_pair(one, other) for one, other in zip(own, others, strict=True)]


def _pair(own: Group, other: Group) -> Group:
    """What the mixture has generated carries no log-probabilities: they would be taken for the policy's own."""
    given = tuple(replace(completion, logprobs=None) for completion in other.completions)
    return replace(own, completions=own.completions + given, extra={COLUMN: (0.0, 1.0)})


@dataclass(frozen=True)
class NashMD:
    """-(P(y ≻ y') - 1/2 - τ·log π_old/π_ref(y))·log π(y|x), y the policy's answer and y' its mixture's.

    Munos et al. 2023 (arXiv:2312.00886) section 7: the policy gradient of a preference model, against the geometric
    mixture of policy and reference. P = σ(r(y) - r(y')) is Bradley and Terry's of the scores. The mixture's answers are
    compared with, and not trained on.
    """

    tau: Annotated[float, Ge(0)] = 0.008
    """τ, the weight of the KL to the reference, in 1 per nat."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset({"old_logprobs", "ref_logprobs"})
    couples: ClassVar[str] = "row"
    kl_weight: ClassVar[str] = "tau"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"tau": (1e-3, 0.3)}
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}
    laws: ClassVar[Mapping[str, str]] = {"baseline": "how far an answer is from the reference counts as it is"}

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the mixture's answers."""
        if not context.brings(COLUMN):
            raise PluginError(
                "nash-md compares with answers of the policy's mixture with its reference, and the stage's sampler "
                "brings none: set sampler=and-mixture"
            )

    def prepare(self, batch: Batch) -> Batch:
        mixed = batch.extra.get(COLUMN, torch.zeros_like(batch.rewards))
        there = fn.group_mean(mixed, batch.group)
        theirs = fn.group_mean(mixed * batch.rewards, batch.group) / there.clamp(min=1e-6)
        preferred = torch.sigmoid(batch.rewards - theirs)
        away = fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask).sum(1)
        weights = fn.sequence_sum(batch.mask) * (1 - mixed)[:, None]
        advantages = preferred - 0.5 - self.tau * away
        return replace(batch, advantages=advantages, weights=weights).select((there > 0) & (mixed < 1))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-batch.advantages[:, None] * out.logprobs, {"preferred": batch.advantages})
