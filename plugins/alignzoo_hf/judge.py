"""Judge `local`: a policy that says which of two options it would rather answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt

from alignzoo import Context, Group, ModelError, Policy, Prompt, Question, Text, Verdict, live_of, processes
from alignzoo.batching import answer, collate
from alignzoo.columns import POLICY, REFERENCE
from alignzoo.interfaces import CheckContext
from alignzoo.judging import options_of, question_prompt
from alignzoo.microbatch import MicroBatcher
from alignzoo_hf.model.checks import check_judge
from alignzoo_hf.model.spec import HF

log = logging.getLogger("alignzoo")

TOO_LONG = "the question is too long for the judge's context less its max_new_tokens"


@dataclass(frozen=True)
class Local:
    """A language model of this machine, by the probabilities that it gives to its options: 1 or 2, yes or no.

    The verdict is P(first) / (P(first) + P(second)). An option's probability is that of its whole text with the end of
    the answer, not of its first token: " yes" and " no" may begin with the same one. The note tells what both have
    together; where that is next to nothing, the model would have said something else, and the verdict means little.

    Without a model of its own, the policy in training is the judge: as it was before training, or as it is. A question
    too long for the model is an error. It can also write.
    """

    model: Any = ""
    """Directory or hub id; empty: the policy in training."""
    state: Literal["frozen", "live"] = "frozen"
    """Without a model of its own: the policy as before training, or as it is now, a judge that changes."""
    chat_template: str = ""
    """Chat template of a model of its own, as in policy `hf`."""
    max_new_tokens: Annotated[int, Ge(1)] = 128
    """Most tokens that a model of its own generates."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Temperature of a model of its own, generating and judging: above 1 verdicts draw near 0.5."""
    batch: Annotated[int, Ge(1)] = 64
    """Rows, two a question, in a forward pass."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: a GPU when there is one."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision, as in policy `hf`."""

    @property
    def asks_roles(self) -> tuple[str, ...]:
        """Whom it asks of the policy in training: nobody where it has a model of its own."""
        return () if self.model else (REFERENCE if self.state == "frozen" else POLICY,)

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        """A verdict on each question."""
        judging = self._policy(policy)
        prompts = [question_prompt(question, judging) for question in questions]
        fits = judging.info().fits  # of a policy that does not say nothing is known
        fitting = [i for i, prompt in enumerate(prompts) if fits is None or fits(prompt)]
        verdicts = [Verdict("error", note=TOO_LONG)] * len(questions)
        rows = [row for i in fitting for row in _rows(judging, prompts[i], len(questions[i].answers))]
        if rows:
            with self._state(judging):
                batch = collate(rows, judging.device, scored=False)
                batcher = MicroBatcher(judging, rows=self.batch)
                columns = answer(judging, batch, frozenset({"logprobs"}), batcher=batcher)
            sums = columns["logprobs"].double().sum(1).view(-1, 2)  # (questions, 2)
            shares = torch.softmax(sums, 1)[:, 0].tolist()
            together = sums.exp().sum(1).tolist()
            for i, share, both in zip(fitting, shares, together, strict=True):
                verdicts[i] = Verdict("value", share, f"its options have probability {both:.2g}")
        return verdicts

    def write(self, conversations: Sequence[Text], policy: Policy | None, *, seeds: Sequence[int]) -> list[str]:
        """The next turn of each conversation, or the continuation of each text."""
        if not self.model and self.state == "frozen":
            raise ModelError("judge 'local' cannot write as the policy was: set judge.model, or judge.state = 'live'")
        writing = self._policy(policy)
        groups = writing.generate([as_read(text, writing) for text in conversations], 1, seeds=seeds)
        return [group.completions[0].text for group in groups]

    def _policy(self, policy: Policy | None) -> Policy:
        if self.model:
            own: Policy = live_of(self)
            return own
        if policy is None:
            raise ModelError("judge 'local' has no model, and there is no policy in training: set judge.model")
        return policy

    def check(self, context: CheckContext) -> None:
        """Raise ModelError where its own model could not be loaded, or could not be asked; say what judges where it has
        none."""
        if self.model:
            check_judge(self._settings(), context)
        elif not processes.index():
            log.warning(
                "judge 'local' has no model of its own, so the policy judges, as it %s: a larger model judges better. "
                "Name it by judge.model, as in reward.judge.model=DIRECTORY, or ask an endpoint: "
                'reward.judge=\'{name="openai", model="..."}\'. `alignzoo judge-report local` says how good a judge is',
                "was before training" if self.state == "frozen" else "is now",
            )

    def open(self, context: Context) -> Policy | None:
        """Load its own model, where it has one."""
        return self._settings().load(frozenset()) if self.model else None

    def _settings(self) -> HF:
        return HF(
            model=self.model,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            chat_template=self.chat_template,
            device=self.device,
            dtype=self.dtype,
        )

    def _state(self, policy: Policy) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.model or self.state == "live" else policy.answering(REFERENCE)


def _chats(policy: Policy) -> bool:
    return policy.info().chats


def as_read(text: Text, policy: Policy) -> Prompt:
    """A text as a user's turn where the policy has a chat template, else as text to go on with."""
    if isinstance(text, str) and _chats(policy):
        return Prompt(({"role": "user", "content": text},))
    return Prompt(text)


def _rows(policy: Policy, prompt: Prompt, answers: int) -> list[Group]:
    """Each option as a group of its own."""
    group = policy.encode(prompt, options_of(prompt, answers))
    return [replace(group, completions=(each,)) for each in group.completions]
