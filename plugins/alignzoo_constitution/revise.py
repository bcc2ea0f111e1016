"""Sampler `revise`: an answer, a critique of it by a principle, a revision; and again."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import Completion, Group, Policy, Prompt, Text, Writer, processes
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext, HasCosts
from alignzoo_constitution import dialogue
from alignzoo_constitution.files import Principle, chosen, load

log = logging.getLogger("alignzoo")


@dataclass(frozen=True)
class Revise:
    """The policy answers; the answer is criticised by a principle and revised; and so on, round by round.

    The group is (original, revision 1, ..., revision k), the later preferred to the earlier: with the reward `labels`
    SFT learns the last one (SL-CAI), DPO the last against the first, a reward model all of the order. What a revision
    has left as it was is not preferred to it.

    Bai et al. 2022 (arXiv:2212.08073) sec. 3. They draw a principle anew in each round; here one comes again only after
    all the others have. A conversation goes through the chat template, plain text is written as in their figures.
    """

    constitution: str = "zoo"
    """One that ships with alignzoo ("zoo", "safe"), a TOML file, or a folder with Anthropic's JSON."""
    principles: tuple[str, ...] = ()
    """Only these of its principles, by name; empty: all that have a critique and a revision."""
    rounds: Annotated[int, Ge(1)] = 1
    """Revisions of each answer, k; the paper has four."""
    examples: Annotated[int, Ge(0)] = 0
    """How many of a principle's examples the writer is shown before each request."""
    writer: Writer | None = None
    """Who criticises and revises: a judge that can write; none: the policy itself."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        chosen(load(self.constitution), self.principles, asks="critique")  # what is wrong is said at the door

    @cached_property
    def drawn_from(self) -> tuple[Principle, ...]:
        """The principles, read once."""
        return chosen(load(self.constitution), self.principles, asks="critique")

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        groups = policy.generate(prompts, 1, seeds=_for("answer", seeds))
        chains = [[replace(group.completions[0], logprobs=None, trail={"step": "answer"})] for group in groups]
        orders = [self._order(seed) for seed in _for("principles", seeds)]
        for number in range(self.rounds):
            drawn = [order[number % len(order)] for order in orders]
            answers = [chain[-1] for chain in chains]
            revised = self._round(number, prompts, answers, drawn, policy, _for(f"round {number}", seeds))
            chains = [[*chain, revision] for chain, revision in zip(chains, revised, strict=True)]
        return [_preferring(group, tuple(chain)) for group, chain in zip(groups, chains, strict=True)]

    def check(self, context: CheckContext) -> None:
        """Say who writes critiques and revisions where no writer is named."""
        if self.writer is None and not processes.index():
            log.warning(
                "sampler 'revise' has no writer, so the policy criticises and revises its own answers: a larger model "
                "does it better. Name it by sampler.writer='{name=\"local\", model=DIRECTORY}', or an endpoint by "
                'sampler.writer=\'{name="openai", model="..."}\''
            )

    def costs(self) -> dict[str, float]:
        """Those of the writer."""
        return dict(self.writer.costs()) if isinstance(self.writer, HasCosts) else {}

    def _order(self, seed: int) -> list[Principle]:
        """All principles, drawn by weight without putting back (Efraimidis and Spirakis 2006)."""
        rng = random.Random(seed)
        return sorted(self.drawn_from, key=lambda principle: rng.random() ** (1 / principle.weight), reverse=True)

    def _round(
        self,
        number: int,
        prompts: Sequence[Prompt],
        answers: Sequence[Completion],
        principles: Sequence[Principle],
        policy: Policy,
        seeds: Sequence[int],
    ) -> list[Completion]:
        """A critique and a revision of every answer."""
        rows = list(zip(prompts, answers, principles, strict=True))
        if policy.info().chats:
            rows = [(_as_turns(prompt), answer, principle) for prompt, answer, principle in rows]
        asked = [self._request(prompt, answer, principle, None) for prompt, answer, principle in rows]
        critiques = [text for text, _ in self._write(asked, policy, _for("critique", seeds))]
        asked = [self._request(*row, critique) for row, critique in zip(rows, critiques, strict=True)]
        revisions = self._write(asked, policy, _for("revision", seeds))
        done = []
        for (prompt, answer, principle), critique, (text, finished) in zip(rows, critiques, revisions, strict=True):
            trail = {"step": f"revision {number + 1}", "principle": principle.name, "critique": critique}
            if not text:
                done.append(replace(answer, trail=trail | {"note": "nothing was written: the answer stays"}))
            elif text == answer.text.strip():
                done.append(replace(answer, trail=trail | {"note": "unchanged"}))
            else:
                done.append(_completed(policy, prompt, text, finished, trail))
        return done

    def _request(self, prompt: Prompt, answer: Completion, principle: Principle, critique: str | None) -> Text:
        examples = [example for example in principle.examples if example.critique][: self.examples]
        return dialogue.request(prompt.messages, answer.text, principle, critique, examples=examples)

    def _write(self, requests: Sequence[Text], policy: Policy, seeds: Sequence[int]) -> list[tuple[str, bool]]:
        """What is written to each request, and whether it ended by itself."""
        if self.writer is not None:
            texts = [(text, True) for text in self.writer.write(requests, policy, seeds=seeds)]
        else:
            groups = policy.generate([Prompt(request) for request in requests], 1, seeds=seeds)
            texts = [(group.completions[0].text, group.completions[0].finished) for group in groups]
        plain = [isinstance(request, str) for request in requests]
        return [_own(text, finished, marked) for (text, finished), marked in zip(texts, plain, strict=True)]


def _as_turns(prompt: Prompt) -> Prompt:
    """A text that the policy reads as a user's turn, as one."""
    if not isinstance(prompt.messages, str) or prompt.chat not in ("auto", "user"):
        return prompt
    return replace(prompt, messages=({"role": "user", "content": prompt.messages},))


def _for(use: str, seeds: Sequence[int]) -> list[int]:
    """The prompts' seeds of one use."""
    return [fn.derive(seed, use) for seed in seeds]


def _own(text: str, finished: bool, marked: bool) -> tuple[str, bool]:
    """The writer's own turn: a model that goes on with plain text also writes the next ones."""
    if not marked:
        return text.strip(), finished
    own, cut = dialogue.ended(text)
    return own, finished or cut


def _completed(policy: Policy, prompt: Prompt, text: str, finished: bool, trail: dict[str, str]) -> Completion:
    """A revision in the policy's tokens; without an end where it was cut off, so that nobody learns to end there."""
    completion = policy.encode(prompt, [text]).completions[0]
    if not finished and completion.finished:
        completion = replace(completion, tokens=completion.tokens[:-1], finished=False)
    return replace(completion, trail=trail)


def _preferring(group: Group, chain: tuple[Completion, ...]) -> Group:
    """The later, the better, from 0 to 1; equal texts are equally good, as the last of them."""
    texts = tuple(completion.text for completion in chain)
    last = {text: number for number, text in enumerate(texts)}
    labels = tuple(last[text] / (len(chain) - 1) for text in texts)
    return replace(group, prompt=replace(group.prompt, completions=texts, labels=labels), completions=chain)
