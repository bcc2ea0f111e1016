"""Where a step's groups come from: the data, or the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import Completion, Context, DataError, Group, Policy, PolicySpec, Prompt


@dataclass(frozen=True)
class DatasetSampler:
    """The completions that come with the data; numeric columns of the data become columns of the batch."""

    online: ClassVar[bool] = False
    from_data: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
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
    """The policy writes n completions of each prompt; or another one does, for it to learn from or to score."""

    n: Annotated[int, Ge(1)] = 1
    """Completions per prompt."""
    writer: PolicySpec | None = None
    """Who writes instead: a teacher, or the stage's forerunner for a reward model; none: the policy in training."""
    online: ClassVar[bool] = True

    def open(self, context: Context) -> Policy | None:
        """Load the writer, where it is another one."""
        return None if self.writer is None else self.writer.load(frozenset())

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        if self.writer is None:
            return policy.generate(prompts, self.n, seeds=seeds)
        other: Policy = alignzoo.live_of(self)
        return [_in_tokens_of(policy, group) for group in other.generate(prompts, self.n, seeds=seeds)]


def _in_tokens_of(policy: Policy, group: Group) -> Group:
    """What another policy has written, in this one's tokens; without an end where it was cut off."""
    encoded = policy.encode(group.prompt, [completion.text for completion in group.completions])
    pairs = zip(group.completions, encoded.completions, strict=True)
    return replace(
        encoded, completions=tuple(_without_end(ours) if not theirs.finished else ours for theirs, ours in pairs)
    )


def _without_end(completion: Completion) -> Completion:
    return replace(completion, tokens=completion.tokens[:-1], finished=False) if completion.finished else completion


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("dataset", DatasetSampler)
    zoo.sampler("policy", PolicySampler)
