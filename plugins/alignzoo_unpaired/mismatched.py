"""The sampler `mismatched`: beside each prompt's own answers one that was given to another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from alignzoo import Batch, Completion, DataError, Group, Policy, Prompt, Score, StepReport
from alignzoo import functional as fn

COLUMN = "mismatched"
"""1 for an answer to another prompt, 0 for those that the data have."""


@dataclass(frozen=True)
class Mismatched:
    """The data's answers with their labels, and after each prompt's group an answer to another prompt.

    What an answer says that has nothing to do with the question, the reference says as well: the mean of its log-ratio
    estimates the KL to the reference (Ethayarajh et al. 2024, arXiv:2402.01306 sec. 4.1). Theirs pairs the prompts of
    a batch in turn; here the answers are those of the steps before, so that a prompt's groups do not depend on which
    others a process is given with it. A first step has none.
    """

    capacity: Annotated[int, Ge(1)] = 64
    """How many answers of earlier steps are drawn from; the oldest leave."""
    pool: tuple[Group, ...] = ()
    """These answers, each with its prompt's tokens: each step's successor carries them on."""
    online: ClassVar[bool] = False
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})
    from_data: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return [each for prompt in prompts for each in self._groups(prompt, policy)]

    def _groups(self, prompt: Prompt, policy: Policy) -> list[Group]:
        if not prompt.completions or len(prompt.labels) != len(prompt.completions):
            raise DataError(
                f"{len(prompt.completions)} answers but {len(prompt.labels)} labels for the prompt "
                f"{str(prompt.messages)[:80]!r}: give data with labelled answers, as prompt, completion and label"
            )
        group = policy.encode(prompt, prompt.completions)
        ended = prompt.finished or (True,) * len(prompt.completions)
        completions = tuple(c if end else _open(c) for c, end in zip(group.completions, ended, strict=True))
        own = replace(
            group,
            completions=completions,
            scores=tuple(Score(label) for label in prompt.labels),
            extra={COLUMN: (0.0,) * len(completions)},
        )
        others = [each for each in self.pool if each.prompt_tokens != group.prompt_tokens]
        if not others:
            return [own]
        drawn = others[fn.derive(0, *map(str, group.prompt_tokens)) % len(others)]
        scores = (Score(sum(prompt.labels) / len(prompt.labels)),)  # so that the step's mean reward is the data's
        return [own, replace(own, completions=drawn.completions, scores=scores, extra={COLUMN: (1.0,)})]

    def next(self, report: StepReport) -> Mismatched:
        """With this step's answers in the pool."""
        new = [
            Group(Prompt(""), group.prompt_tokens, (completion,))
            for group in report.groups
            if COLUMN in group.extra and not any(group.extra[COLUMN])
            for completion in group.completions
        ]
        return replace(self, pool=(*self.pool, *new)[-self.capacity :])


def _open(completion: Completion) -> Completion:
    """Without the end, of an answer that did not end by itself."""
    return completion.cut(len(completion.tokens) - 1) if completion.finished else completion


def is_mismatched(batch: Batch) -> Tensor:
    """Which rows answer another prompt, (N,)."""
    column = batch.extra.get(COLUMN)
    return torch.zeros(len(batch), dtype=torch.bool, device=batch.mask.device) if column is None else column == 1
