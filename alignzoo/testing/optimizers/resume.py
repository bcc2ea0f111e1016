"""An optimizer's run that was stopped and resumed is the run that was not stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from alignzoo.interfaces import Optimizer, Policy
from alignzoo.testing.laws import Given
from alignzoo.testing.stopping import resumes
from alignzoo.testing.world import by_row, column_values
from alignzoo.types import Group, Prompt


@dataclass(frozen=True)
class ToySampler:
    """The policy writes; the columns that an optimizer reads are made up."""

    n: int = 3
    columns: tuple[str, ...] = ()
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        extra = {name: by_row(some or (0.5,), self.n) for name, some in column_values(self.columns).items()}
        return [replace(group, extra=extra) for group in policy.generate(prompts, self.n, seeds=seeds)]


def resume(optimizer: Optimizer, given: Given) -> None:
    """Stopped after two of four steps and resumed in fresh objects, a run writes the same to the byte."""
    cause = "state outside of the fields (a global, a cache), or a field that next() changes and JSON cannot hold"
    prompts = [Prompt(f"prompt {i}") for i in range(6)]
    resumes(cause, optimizer, ToySampler(columns=tuple(given.columns)), prompts)
