"""Sampler `varied`: of many answers, those that have least in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import alignzoo
from alignzoo import Completion, Group, Policy, Prompt
from alignzoo.registry import Registrar
from annotated_types import Ge

api = ">=0.2,<0.3"


@dataclass(frozen=True)
class Varied:
    """n of `tries` answers: the first, then each time the one whose words are shared least with those taken."""

    n: Annotated[int, Ge(1)] = 4
    """Completions to keep of each prompt."""
    tries: Annotated[int, Ge(1)] = 8
    """Completions to write of each prompt."""
    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tries < self.n:
            raise ValueError(f"tries: found {self.tries}, which is fewer than n = {self.n}")

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return [self._chosen(group) for group in policy.generate(prompts, self.tries, seeds=seeds)]

    def _chosen(self, group: Group) -> Group:
        taken, *left = group.completions
        kept = [taken]
        while len(kept) < self.n:
            nearest = [max(shared(each, other) for other in kept) for each in left]
            kept.append(left.pop(nearest.index(min(nearest))))
        return replace(group, completions=tuple(kept))


def shared(one: Completion, other: Completion) -> float:
    """The share of words that two answers have in common, from 0 to 1."""
    a, b = set(one.text.split()), set(other.text.split())
    return len(a & b) / max(1, len(a | b))


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.sampler("varied", Varied)
