"""A puzzle is asked twice: the policy answers, its puzzle is put to it again, and the second answer counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import Completion, Group, Policy, Prompt, Score
from alignzoo import functional as fn


@dataclass(frozen=True)
class SecondTry:
    """Transcripts of an answer, the puzzle again, which the policy has not said, and another answer: 1 where that is
    right, else 0."""

    n: Annotated[int, Ge(1)] = 8
    """Transcripts per prompt."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        groups = policy.generate(prompts, self.n, seeds=[fn.derive(seed, "first") for seed in seeds])
        begun = [each.then(self._again(group)) for group in groups for each in group.completions]
        asked = [group.prompt_tokens for group in groups for _ in group.completions]
        prefixes = [first + transcript.tokens for first, transcript in zip(asked, begun, strict=True)]
        replies = policy.go_on(
            prefixes, 1, seeds=[fn.derive(seed, "second", i) for seed in seeds for i in range(self.n)]
        )
        whole = iter(zip(begun, replies, strict=True))
        found = []
        for group in groups:
            played = [
                (transcript.then(reply), reply.text.strip())
                for transcript, (reply,) in (next(whole) for _ in group.completions)
            ]
            scores = tuple(Score(float(said == group.prompt.info.get("answer"))) for _, said in played)
            found.append(replace(group, completions=tuple(each for each, _ in played), scores=scores))
        return found

    def _again(self, group: Group) -> Completion:
        return Completion.observation(group.prompt_tokens, "\n")


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("second-try", SecondTry)
