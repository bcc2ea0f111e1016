"""Where a step's groups come from: the data, or the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import Completion, Context, DataError, Decoding, Group, Policy, PolicySpec, Prompt, Score
from alignzoo.decoding import AS_SET


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
        if prompt.finished:
            ended = zip(group.completions, prompt.finished, strict=True)
            group = replace(group, completions=tuple(each if end else _without_end(each) for each, end in ended))
        return _with_numbers(group)


@dataclass(frozen=True)
class PolicySampler:
    """The policy generates n completions of each prompt; or another one does, for it to learn from or to score. Numeric
    columns of the data become columns of the batch."""

    n: Annotated[int, Ge(1)] = 1
    """Completions per prompt."""
    writer: PolicySpec | None = None
    """Who writes instead: a teacher, or the stage's forerunner for a reward model; none: the policy in training."""
    decoding: Decoding | None = None
    """How completions are generated, where it is otherwise than the policy's settings say: {"min_p": 0.05}."""
    online: ClassVar[bool] = True

    def open(self, context: Context) -> Policy | None:
        """Load the writer, where it is another one."""
        return None if self.writer is None else self.writer.load(frozenset())

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        if self.writer is None:
            found = policy.generate(prompts, self.n, seeds=seeds, decoding=self.decoding or AS_SET)
        else:
            other: Policy = alignzoo.live_of(self)
            groups = other.generate(prompts, self.n, seeds=seeds, decoding=self.decoding or AS_SET)
            found = [_in_tokens_of(policy, group) for group in groups]
        return list(map(_with_numbers, found))


@dataclass(frozen=True)
class SelfPlaySampler:
    """The given answer of each prompt, scored 1, beside answers of the policy's own, scored 0.

    SPIN: the policy learns to tell the data from what it generated itself. Chen et al. 2024 (arXiv:2401.01335),
    algorithm 1. The paper generates with the policy of the round before; here it is whichever policy the stage has.
    """

    answers: Annotated[int, Ge(1)] = 1
    """Answers of its own for each prompt."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        given = [self._given(prompt, policy) for prompt in prompts]
        own = policy.generate(prompts, self.answers, seeds=seeds)
        return [_beside(data, generated) for data, generated in zip(given, own, strict=True)]

    def _given(self, prompt: Prompt, policy: Policy) -> Group:
        if not prompt.completions:
            raise DataError(
                f"the prompt {str(prompt.messages)[:80]!r} has no answer for the policy to play against: give data "
                "with answers, as in data.kind=demonstrations"
            )
        best = max(range(len(prompt.completions)), key=lambda i: prompt.labels[i] if prompt.labels else -i)
        group = policy.encode(prompt, [prompt.completions[best]])
        if not prompt.finished or prompt.finished[best]:
            return group
        return replace(group, completions=(_without_end(group.completions[0]),))


def _with_numbers(group: Group) -> Group:
    """With the numeric columns of the prompt's row, the same for each of its completions."""
    numbers = {
        name: float(value)
        for name, value in group.prompt.info.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return replace(group, extra={name: (number,) * len(group.completions) for name, number in numbers.items()})


def _beside(data: Group, generated: Group) -> Group:
    if data.prompt_tokens != generated.prompt_tokens:
        raise DataError(
            f"the given answer to {str(data.prompt.messages)[:80]!r} has several turns, and the policy's own answers "
            "another prompt: set data.turns=last"
        )
    completions = (*data.completions, *generated.completions)
    return replace(data, completions=completions, scores=(Score(1.0), *(Score(0.0) for _ in generated.completions)))


def _in_tokens_of(policy: Policy, group: Group) -> Group:
    """What another policy has written, in this one's tokens; without an end where it was cut off."""
    encoded = policy.encode(group.prompt, [completion.text for completion in group.completions])
    pairs = zip(group.completions, encoded.completions, strict=True)
    return replace(
        encoded, completions=tuple(_without_end(ours) if not theirs.finished else ours for theirs, ours in pairs)
    )


def _without_end(completion: Completion) -> Completion:
    return completion.cut(len(completion.tokens) - 1) if completion.finished else completion


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("dataset", DatasetSampler)
    zoo.sampler("policy", PolicySampler)
    zoo.sampler("self-play", SelfPlaySampler)
