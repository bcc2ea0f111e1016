"""Plugin `dynamic`: groups that agree teach nothing, so they are dropped and others asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import Group, Policy, Prompt


@dataclass(frozen=True)
class DynamicSampler:
    """The policy writes n completions of each prompt; groups that score alike give way to others.

    Keep a group only if 0 < |{y : r(y) = max r}| < n: DAPO's dynamic sampling, Yu et al. 2025 (arXiv:2503.14476)
    eq. 11. Theirs samples whole batches until one is full; ours asks for as many groups as are still missing, and
    after the last attempt the step makes do with what there is.
    """

    n: Annotated[int, Ge(2)] = 8
    """Completions per prompt."""
    attempts: Annotated[int, Ge(1)] = 4
    """How often a step asks, the first time included; 1: it only drops."""
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return policy.generate(prompts, self.n, seeds=seeds)

    def select(self, groups: Sequence[Group]) -> list[Group]:
        return [group for group in groups if len({s.value for s in group.scores or ()} - {None}) > 1]


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("dynamic", DynamicSampler)
