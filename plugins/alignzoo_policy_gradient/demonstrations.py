"""The sampler `and-demonstrations`: beside what the policy generates, answers to imitate in the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from alignzoo import Batch, Context, DataError, Group, PluginError, Policy, Prompt
from alignzoo import functional as fn
from alignzoo.data import Data, prompts_of
from alignzoo.interfaces import CheckContext

COLUMN = "demonstration"
"""1 for an answer that is to be imitated, 0 for those that the policy generated."""


@dataclass(frozen=True)
class AndDemonstrations:
    """The policy's n answers to each prompt, and after them a demonstration as a group of its own.

    The run's reward scores the demonstrations, too, so that its mean is over both.
    """

    n: Annotated[int, Ge(1)] = 8
    """Answers per prompt."""
    data: str = ""
    """A file or dataset of demonstrations, of which one is drawn for each prompt; empty: the prompt's own best answer,
    as data.kind=demonstrations brings it."""
    online: ClassVar[bool] = True
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})

    @cached_property
    def _given(self) -> list[Prompt]:
        return prompts_of(Data(self.data))

    def open(self, context: Context) -> list[Prompt]:
        """Read the demonstrations, where they are others than the prompts' own."""
        return self._given if self.data else []

    def check(self, context: CheckContext) -> None:
        """Raise DataError where a prompt, or a row of `data`, has no answer to imitate."""
        for prompt in self._given if self.data else context.prompts:
            _demonstration(prompt)

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        found: list[Group] = []
        for group, seed in zip(policy.generate(prompts, self.n, seeds=seeds), seeds, strict=True):
            found.append(replace(group, extra={COLUMN: (0.0,) * self.n}))
            source = self._drawn(seed) if self.data else group.prompt
            given = policy.encode(source, [_demonstration(source)])
            found.append(replace(given, extra={COLUMN: (1.0,)}))
        return found

    def _drawn(self, seed: int) -> Prompt:
        return self._given[fn.derive(seed, COLUMN) % len(self._given)]


def _demonstration(prompt: Prompt) -> object:
    """The best of a prompt's own answers."""
    if not prompt.completions:
        raise DataError(
            f"the prompt {str(prompt.messages)[:80]!r} has no answer to imitate: give data with answers, as in "
            "data.kind=demonstrations, or a file of demonstrations by sampler.data"
        )
    best = max(range(len(prompt.completions)), key=lambda i: prompt.labels[i] if prompt.labels else -i)
    return prompt.completions[best]


def check_sampler(name: str, context: CheckContext) -> None:
    """Raise PluginError where nobody brings demonstrations."""
    if not context.brings(COLUMN):
        raise PluginError(
            f"{name} imitates demonstrations beside its policy gradient, and the stage's sampler brings none: set "
            "sampler=and-demonstrations, with data.kind=demonstrations or a file by sampler.data"
        )


def is_demonstration(batch: Batch) -> Tensor:
    """Which rows are demonstrations, (N,)."""
    column = batch.extra.get(COLUMN)
    return torch.zeros(len(batch), dtype=torch.bool, device=batch.mask.device) if column is None else column > 0.5


def weigh_apart(batch: Batch, imitated: Tensor) -> Tensor:
    """The mean over the tokens of the policy's own rows, plus that over the tokens of demonstrations, (N, T)."""
    sides = [(batch.mask & rows[:, None]).float() for rows in (~imitated, imitated)]
    own, given = (side * (len(batch) / side.sum().clamp(min=1)) for side in sides)
    return own + given
