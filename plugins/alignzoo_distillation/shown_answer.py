"""The sampler `shown-answer`: what a right answer, had it been shown, would have told of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import DataError, Group, Policy, Prompt, Score, Text
from alignzoo.batching import answer, collate

TEMPLATE = (
    "{prompt}\n\nHere is an example of a good response to this:\n\n{answer}\n\n"
    "Now give a response of your own, with its reasoning."
)


@dataclass(frozen=True)
class ShownAnswer:
    """The policy's n answers to each prompt, each token worth how much likelier it would be to the reference, had that
    been shown the prompt's given answer d: log π_T(y_t | x, d, y_<t) - log π_T(y_t | x, y_<t)."""

    n: Annotated[int, Ge(1)] = 1
    """Answers per prompt."""
    template: str = TEMPLATE
    """What the teacher is asked, with {prompt}, the last turn of it, and {answer}, the best of the given ones."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if "{answer}" not in self.template:
            raise ValueError(f"the template {self.template[:60]!r} has no {{answer}}: nothing would be shown")

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        shown = [self._shown(prompt) for prompt in prompts]
        groups = policy.generate(prompts, self.n, seeds=seeds)
        heads = [policy.encode(each, ["."]).prompt_tokens for each in shown]
        asked = [replace(group, prompt_tokens=head) for group, head in zip(groups, heads, strict=True)]
        with policy.answering("ref"):
            told, untold = _logprobs(asked, policy), _logprobs(groups, policy)
        return [
            replace(group, scores=tuple(map(_gain, with_it, without)))
            for group, with_it, without in zip(groups, told, untold, strict=True)
        ]

    def _shown(self, prompt: Prompt) -> Prompt:
        if not prompt.completions:
            raise DataError(
                f"the prompt {str(prompt.messages)[:80]!r} has no answer that its teacher could be shown: give data "
                "with answers, as in data.kind=demonstrations"
            )
        best = max(range(len(prompt.completions)), key=lambda i: prompt.labels[i] if prompt.labels else -i)
        asked = self.template.replace("{answer}", _plain(prompt.completions[best]))
        if isinstance(prompt.messages, str):
            return replace(prompt, messages=asked.replace("{prompt}", prompt.messages))
        *before, last = prompt.messages
        turn = {**last, "content": asked.replace("{prompt}", last["content"])}
        return replace(prompt, messages=(*before, turn))


def _plain(text: Text) -> str:
    return text if isinstance(text, str) else text[-1]["content"]


def _logprobs(groups: Sequence[Group], policy: Policy) -> list[list[tuple[float, ...]]]:
    """The log-probability of each token of each answer of each group, by whoever speaks."""
    batch = collate(groups, policy.device, scored=False)
    rows = answer(policy, batch, frozenset({"logprobs"}))["logprobs"].tolist()
    found = dict(zip(batch.row.tolist(), rows, strict=True))  # an answer without a token is no row
    number = count()
    return [
        [tuple(found.get(next(number), ())[len(g.prompt_tokens) :][: len(each.tokens)]) for each in g.completions]
        for g in groups
    ]


def _gain(with_it: Sequence[float], without: Sequence[float]) -> Score:
    tokens = tuple(one - other for one, other in zip(with_it, without, strict=True))
    return Score(0.0, tokens, {"gain": sum(tokens)})
