"""Where a step's groups come from: the data, or the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import DataError, Group, Policy, Prompt


@dataclass(frozen=True)
class DatasetSampler:
    """The completions that come with the data; numeric columns of the data become columns of the batch."""

    online: ClassVar[bool] = False

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seed: int) -> list[Group]:
        return [self._group(prompt, policy) for prompt in prompts]

    def _group(self, prompt: Prompt, policy: Policy) -> Group:
        if not prompt.completions:
            raise DataError(
                f"the prompt {str(prompt.messages)[:80]!r} has no completions to learn from: give data with answers, "
                "or let the policy write them with sampler=policy and a reward"
            )
        group = policy.encode(prompt, prompt.completions)
        numbers = {
            k: float(v) for k, v in prompt.info.items() if isinstance(v, int | float) and not isinstance(v, bool)
        }
        extra = {name: (number,) * len(group.completions) for name, number in numbers.items()}
        return replace(group, extra=extra)


@dataclass(frozen=True)
class PolicySampler:
    """The policy writes n completions of each prompt."""

    n: Annotated[int, Ge(1)] = 1
    """Completions per prompt."""
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seed: int) -> list[Group]:
        return policy.generate(prompts, self.n, seed=seed)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("dataset", DatasetSampler)
    zoo.sampler("policy", PolicySampler)
