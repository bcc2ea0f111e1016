"""Optimizer `self-distillation`: the policy, shown a right answer, teaches itself; and the sampler that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from alignzoo import Batch, DataError, Forward, Group, PluginError, Policy, Prompt, Score, Terms, Text
from alignzoo import functional as fn
from alignzoo.batching import answer, collate
from alignzoo.interfaces import CheckContext

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
    """Of each answer of each group, how likely whoever speaks finds its tokens."""
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


@dataclass(frozen=True)
class SelfDistillation:
    """Self-distillation: the policy, shown a right answer d, is the teacher of itself that was not.

    -ρ·A_t, A_t = r_t - log π_old/π_T(y_t | x, y_<t), averaged over the tokens of the policy's own answers, r_t as the
    sampler `shown-answer` has it: so A_t = log π_T(y_t | x, d, y_<t) - log π_old(y_t | x, y_<t), each token's own part
    of the reverse KL to the teacher.

    Zhao et al. 2026, OPSD (arXiv:2601.18734), whose teacher is the policy at the start, here the reference; Shenfeld
    et al. 2026, SDFT (arXiv:2601.19897), whose teacher is its moving average. This is the form for sampled tokens,
    as TRL's `distillation_mode="sampled_token"`, which was read; both papers have divergences over the whole
    vocabulary, too.
    """

    follows: Annotated[float, Ge(0), Le(1)] = 0.0
    """How much of the policy the teacher takes after each step: 0 leaves it at the start, 0.05 is a moving average."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    laws: ClassVar[Mapping[str, str]] = {"every_token": "each token is told its own part of the divergence alone"}

    def check(self, context: CheckContext) -> None:
        """Raise where the teacher is shown nothing."""
        if not isinstance(context.sampler, ShownAnswer):
            raise PluginError(
                "self-distillation is taught by the policy that was shown a right answer, and the stage's sampler "
                "shows it none: set sampler=shown-answer, on data with answers (data.kind=demonstrations)"
            )

    def follow(self, step: int) -> Mapping[str, float]:
        return {"ref": self.follows} if self.follows else {}

    def prepare(self, batch: Batch) -> Batch:
        rewards = fn.at_last_token(batch.rewards, batch.mask)
        if batch.token_rewards is not None:
            rewards = rewards + batch.token_rewards
        advantages = rewards - fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask)
        return replace(batch, advantages=advantages, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(-ratio * batch.advantages, {"teacher/kl": -batch.advantages})
