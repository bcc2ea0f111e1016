"""Plugin `replay`: groups of earlier steps are learnt from again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

import alignzoo
from alignzoo import Group, Policy, Prompt, StepReport


@dataclass(frozen=True)
class ReplaySampler:
    """The policy writes n completions of each prompt; groups of earlier steps come in again.

    Experience replay (Lin 1992), as RePO does it for language models: Li et al. 2025 (arXiv:2506.09340). A buffer of
    the newest groups, drawn from at random, with the scores that they had. What an earlier policy wrote is off-policy:
    with `schedule.importance_cap` each token is weighed by min(π/μ, cap), μ the policy that wrote it.
    """

    n: Annotated[int, Ge(1)] = 8
    """Completions per prompt."""
    replayed: Annotated[float, Ge(0)] = 1.0
    """Groups from the buffer for each new one; fewer while it fills."""
    capacity: Annotated[int, Ge(1)] = 64
    """Groups in the buffer; the oldest leave it."""
    buffer: tuple[Group, ...] = ()
    """The groups, oldest first: each step's successor carries them on."""
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seed: int) -> list[Group]:
        rng = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(self.buffer), generator=rng)[: round(self.replayed * len(prompts))]
        return [*policy.generate(prompts, self.n, seed=seed), *(self.buffer[i] for i in drawn.tolist())]

    def next(self, report: StepReport) -> ReplaySampler:
        """With this step's groups in the buffer."""
        new = [_bare(group, report.step) for group in report.groups if _is_new(group, report.step)]
        return replace(self, buffer=(*self.buffer, *new)[-self.capacity :])


def _is_new(group: Group, step: int) -> bool:
    return all(each.step in (None, step) for each in group.completions)


def _bare(group: Group, step: int) -> Group:
    """Without what only rewards read: it has its scores."""
    completions = tuple(each.generated_for(step) for each in group.completions)
    bare = Prompt(group.prompt.messages, chat=group.prompt.chat, media=group.prompt.media)
    return replace(group, prompt=bare, completions=completions)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("replay", ReplaySampler)
