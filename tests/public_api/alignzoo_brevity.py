"""A reward whose target moves with the steps: answers of at most so many words, and of fewer as training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge

import alignzoo
from alignzoo import Group, Policy, Score, StepReport


@dataclass(frozen=True)
class Brevity:
    """-1 for each word beyond a limit, which falls from `first` to `last` in so many steps, linearly."""

    first: Annotated[int, Ge(0)] = 12
    """The limit of the first step."""
    last: Annotated[int, Ge(0)] = 6
    """The limit after `steps` steps."""
    steps: Annotated[int, Ge(1)] = 10
    """How long the limit moves."""
    step: Annotated[int, Ge(0)] = 0
    """The finished steps."""

    @property
    def limit(self) -> float:
        """The limit now."""
        return self.first + (self.last - self.first) * min(self.step / self.steps, 1.0)

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        words = [[len(completion.text.split()) for completion in group.completions] for group in groups]
        return [tuple(Score(min(0.0, self.limit - n), parts={"limit": self.limit}) for n in row) for row in words]

    def next(self, report: StepReport) -> Brevity:
        return replace(self, step=report.step)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("brevity", Brevity)
