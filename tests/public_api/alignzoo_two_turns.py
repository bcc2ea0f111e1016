"""An environment of two turns: the policy asks, a tool answers, and the policy goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import Completion, Group, Policy, Prompt, Score
from alignzoo import functional as fn


@dataclass(frozen=True)
class TwoTurns:
    """A question, a tool's answer to it, and what the policy makes of that: one transcript a completion.

    The tool knows an answer to questions with the key word alone. Half a point for asking it, and half for beginning
    the second turn with what it says. No turn is tokenised again: the policy goes on from the tokens that there are.
    """

    n: Annotated[int, Ge(1)] = 8
    """Transcripts per prompt."""
    key: str = "5"
    """The word that a question has to have."""
    answer: str = "7"
    """What the tool then says; otherwise it says that it does not know."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        groups = policy.generate(prompts, self.n, seeds=[fn.derive(seed, "question") for seed in seeds])
        begun = [(group, each, each.then(self._tool(each, policy))) for group in groups for each in group.completions]
        prefixes = [group.prompt_tokens + transcript.tokens for group, _, transcript in begun]
        own = [fn.derive(seed, "reply", i) for seed in seeds for i in range(self.n)]
        replies = policy.go_on(prefixes, 1, seeds=own)
        whole = iter(
            (transcript.then(reply), self._score(question, reply))
            for (_, question, transcript), (reply,) in zip(begun, replies, strict=True)
        )
        return [self._group(group, [next(whole) for _ in group.completions]) for group in groups]

    def _tool(self, question: Completion, policy: Policy) -> Completion:
        text = self.answer if self._asked(question) else "?"
        encoded = policy.encode(Prompt(""), [text]).completions[0]
        return Completion.observation(encoded.tokens[:-1], f" [{text}] ")  # without an end: the policy goes on

    def _asked(self, question: Completion) -> bool:
        return self.key in question.text.split()

    def _score(self, question: Completion, reply: Completion) -> Score:
        asked = float(self._asked(question))
        used = asked * (reply.text.split()[:1] == [self.answer])
        return Score(0.5 * asked + 0.5 * used, parts={"asked": asked, "used": used})

    def _group(self, group: Group, played: Sequence[tuple[Completion, Score]]) -> Group:
        transcripts, scores = zip(*played, strict=True)
        return replace(group, completions=transcripts, scores=scores)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.sampler("two-turns", TwoTurns)
