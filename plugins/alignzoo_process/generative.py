"""The optimizer `generative-reward-model`, and the sampler `verdicts` that turns scored answers into questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from alignzoo import Batch, DataError, Forward, Group, Policy, Prompt, Question, Score, Terms
from alignzoo import functional as fn
from alignzoo.judging import options_of, question_prompt

COLUMN = "solution"
"""1 for an answer itself, 0 for a verdict on one."""


@dataclass(frozen=True)
class Verdicts:
    """For each labelled answer of the data a question whether it is good, with the right reply; and the good answers.

    The question is what the judge `local` asks of one answer, so that what is trained on it can be that judge's model.
    """

    threshold: float = 0.5
    """An answer is good where its label is above this."""
    solutions: bool = True
    """Bring the good answers themselves, too, each after its question."""
    online: ClassVar[bool] = False
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
        found = []
        for text, label in zip(prompt.completions, prompt.labels, strict=True):
            plain = text if isinstance(text, str) else text[-1]["content"]
            asked = question_prompt(Question(prompt.messages, (plain,)), policy)
            reply = options_of(asked, 1)[0 if label > self.threshold else 1]
            found.append(_one(policy.encode(asked, [reply]), 0.0))
            if self.solutions and label > self.threshold:
                found.append(_one(policy.encode(prompt, [text]), 1.0))
        return found


def _one(group: Group, solution: float) -> Group:
    """A group of one that is imitated, whatever it is worth."""
    return replace(group, scores=(Score(1.0),), extra={COLUMN: (solution,)})


@dataclass(frozen=True)
class GenerativeRewardModel:
    """A generative verifier: whether an answer is good is what the model replies when it is asked.

    -log π(reply | answer, question) - λ·log π(good answer), each a mean over its own tokens.

    Zhang et al. 2024 (arXiv:2408.15240) eq. 5 and 6: the reward of an answer is the probability of "yes". The sampler
    `verdicts` brings questions and answers; the reward is the judge `local` with this model, asked pointwise.
    """

    solutions: Annotated[float, Ge(0)] = 0.25
    """λ, the weight of generating good answers beside judging them; the paper's is 1/4 of correct solutions' share."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    couples: ClassVar[str] = "row"
    imitates: ClassVar[bool] = True
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}

    def prepare(self, batch: Batch) -> Batch:
        batch = fn.best(batch)
        solution = batch.extra.get(COLUMN, torch.zeros_like(batch.rewards)) > 0.5
        weights = torch.zeros_like(batch.mask, dtype=torch.float32)
        for rows, weight in ((~solution, 1.0), (solution, self.solutions)):
            side = batch.mask & rows[:, None]
            weights = weights + weight * side * (len(batch) / side.sum().clamp(min=1))
        return replace(batch, weights=weights)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        nll = -torch.where(batch.mask, out.logprobs, 0.0)
        return Terms(nll, {"chance": torch.exp(-nll.sum(1)), "nll/token": nll.detach() * fn.sequence_sum(batch.mask)})
