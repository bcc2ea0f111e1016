"""Plugin `replay`: groups of earlier steps are learnt from again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

import alignzoo
from alignzoo import Group, Policy, Prompt, StepReport
from alignzoo import functional as fn


@dataclass(frozen=True)
class ReplaySampler:
    """The policy writes n completions of each prompt; groups of earlier steps come in again.

    Experience replay (Lin 1992), as RePO does it for language models: Li et al. 2025 (arXiv:2506.09340). A buffer of
    the newest groups, with the scores that they had, from which each prompt draws on its own: different groups, and
    perhaps one that another prompt of the step draws, too. What an earlier policy wrote is off-policy: with
    `schedule.importance_cap` each token is weighed by min(π/μ, cap), μ the policy that wrote it.
    """

    n: Annotated[int, Ge(1)] = 8
    """Completions per prompt."""
    replayed: Annotated[float, Ge(0)] = 1.0
    """Groups from the buffer for each new one, in expectation; fewer while it has fewer."""
    capacity: Annotated[int, Ge(1)] = 64
    """Groups in the buffer; the oldest leave it."""
    buffer: tuple[Group, ...] = ()
    """The groups, oldest first: each step's successor carries them on."""
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        new = policy.generate(prompts, self.n, seeds=seeds)
        return [each for group, seed in zip(new, seeds, strict=True) for each in (group, *self._drawn(seed))]

    def _drawn(self, seed: int) -> list[Group]:
        """A prompt's groups from the buffer: `replayed` of them, of which a fraction is the chance of one more."""
        rng = torch.Generator().manual_seed(fn.derive(seed, "replay"))
        count = int(self.replayed + float(torch.rand((), generator=rng)))
        return [self.buffer[i] for i in torch.randperm(len(self.buffer), generator=rng)[:count].tolist()]

    def next(self, report: StepReport) -> ReplaySampler:
        """With this step's groups in the buffer."""
        new = [_bare(group, report.step) for group in report.groups if _is_new(group, report.step)]
        return replace(self, buffer=(*self.buffer, *new)[-self.capacity :])


def _is_new(group: Group, step: int) -> bool:
    return all(each.step in (None, step) for each in group.completions)


def _bare(group: Group, step: int) -> Group:
    """Without what only rewards read: it has its scores."""
    completions = tuple(each.generated_for(step) for each in group.completions)
    bare = replace(group.prompt, completions=(), labels=(), info={}, finished=())
    return replace(group, prompt=bare, completions=completions)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("replay", ReplaySampler)
