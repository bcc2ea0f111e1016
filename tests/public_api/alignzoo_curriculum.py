"""A curriculum: prompts that the policy sometimes solves, and sometimes not, come more often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

import alignzoo
from alignzoo import Group, Policy, Prompt, StepReport


@dataclass(frozen=True)
class CurriculumSampler:
    """The policy generates n completions of prompts that are drawn by p(1 - p) + floor, p their running success rate.

    A group that is solved always, or never, has no advantage to teach by. A success is a reward of 0.5 or more.
    """

    n: Annotated[int, Ge(1)] = 8
    """Completions per prompt."""
    floor: Annotated[float, Gt(0)] = 0.05
    """Added to each prompt's chance, so that none is forgotten; p(1 - p) is 0.25 at most."""
    memory: Annotated[float, Gt(0), Le(1)] = 0.5
    """How much a new success rate counts against the running one."""
    rates: tuple[tuple[int, float], ...] = ()
    """The success rates so far, by the prompts' places among the stage's; one that has not been asked has 0.5."""
    online: ClassVar[bool] = True

    def choose(self, prompts: Sequence[Prompt], n: int, *, seed: int) -> list[int]:
        known = dict(self.rates)
        chances = [self.floor + p * (1 - p) for p in (known.get(i, 0.5) for i in range(len(prompts)))]
        return random.Random(seed).choices(range(len(prompts)), chances, k=n)

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return policy.generate(prompts, self.n, seeds=seeds)

    def next(self, report: StepReport) -> CurriculumSampler:
        known = dict(self.rates)
        for group in report.groups:
            values = [float(s.value >= 0.5) for s in group.scores or () if s.value is not None]
            if values and group.prompt.index is not None:
                former, now = known.get(group.prompt.index, 0.5), sum(values) / len(values)
                known[group.prompt.index] = former + self.memory * (now - former)
        return replace(self, rates=tuple(sorted(known.items())))


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("curriculum", CurriculumSampler)
