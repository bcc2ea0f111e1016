"""Two sources of groups in one step: the policy's own completions are reinforced, the data's are imitated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

import alignzoo
from alignzoo import Batch, Forward, Group, Policy, Prompt, Score, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class BesideSampler:
    """The policy's n completions of each prompt, each followed by a group of the data's first completion."""

    n: Annotated[int, Ge(2)] = 4
    """Completions per prompt."""
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        found: list[Group] = []
        for group in policy.generate(prompts, self.n, seeds=seeds):
            found.append(_marked(group, 0.0))
            if group.prompt.completions:
                given = policy.encode(group.prompt, group.prompt.completions[:1])
                found.append(replace(_marked(given, 1.0), scores=(Score(0.0),)))
        return found


def _marked(group: Group, value: float) -> Group:
    return replace(group, extra={"demonstration": (value,) * len(group.completions)})


@dataclass(frozen=True)
class PTX:
    """-A·log π over the policy's own completions, and -γ·log π over the data's, each a mean over tokens, then over
    its own completions.

    Ouyang et al. 2022 (arXiv:2203.02155) eq. 2, whose first term is PPO's; here it is the score function with the
    group's mean as baseline.
    """

    imitation: Annotated[float, Ge(0)] = 0.5
    """γ, the weight of the data's term."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()

    def prepare(self, batch: Batch) -> Batch:
        given = _given(batch)
        weights = torch.zeros_like(batch.mask, dtype=torch.float32)
        for rows, weight in ((~given, 1.0), (given, self.imitation)):
            own, share = batch.mask & rows[:, None], len(batch) / max(1, int(rows.sum()))
            weights = weights + weight * share * fn.sequence_mean(own)
        return replace(batch, advantages=torch.where(given, 1.0, fn.group_advantages(batch)), weights=weights)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        given = _given(batch)[:, None]
        cost = -out.logprobs * batch.advantages[:, None]
        return Terms(cost, {"loss/demonstrations": torch.where(given, cost, 0.0)})


def _given(batch: Batch) -> torch.Tensor:
    """Which rows are the data's; none of a step in which nothing was sampled."""
    return batch.extra.get("demonstration", torch.zeros_like(batch.rewards)) > 0.5


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("beside", BesideSampler)
    zoo.optimizer("ptx", PTX)
