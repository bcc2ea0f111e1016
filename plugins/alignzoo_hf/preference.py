"""Judge `model`: a reward model says which of two answers is better, as Bradley and Terry have it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, cast

from annotated_types import Gt

from alignzoo import Completion, Context, Group, Policy, Question, Verdict, live_of
from alignzoo_hf.judge import as_read
from alignzoo_hf.reward import ModelReward

KNOWN = 100_000
"""So many scores are remembered: an answer meets many others, in both orders."""


@dataclass
class Opened:
    """The model, and what it has said of answers."""

    scorer: Policy
    known: dict[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelJudge(ModelReward):
    """A trained reward model as a judge: of two answers the first is better with probability

        σ((r₁ - r₂) / temperature)

    (Bradley and Terry 1952), whichever is shown first; one answer is worth σ(r / temperature). r is the model's score
    of the answer, ended, after the prompt. A reward model reads no criterion: of a question that has one it abstains.
    """

    temperature: Annotated[float, Gt(0)] = 1.0
    """Above 1 verdicts draw near 0.5."""

    def open(self, context: Context) -> Opened:
        return Opened(super().open(context))

    @property
    def _scorer(self) -> Policy:
        return self._opened.scorer

    @property
    def _opened(self) -> Opened:
        opened: Opened = live_of(self)
        return opened

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        """A verdict on each question; of a model that is sharded, all processes ask at the same time."""
        known = self._known([question for question in questions if not question.criterion])
        return [
            Verdict("abstain", note=f"a reward model reads no criterion: {question.criterion!r}")
            if question.criterion
            else self._verdict([known[_key(question, answer)] for answer in question.answers])
            for question in questions
        ]

    def _known(self, questions: Sequence[Question]) -> dict[tuple[str, str], float]:
        """The scores of these questions' answers, of which the model reads each once."""
        known = self._opened.known
        for key in list(itertools.islice(known, max(len(known) - KNOWN, 0))):
            del known[key]  # the oldest
        new = {_key(q, answer): q for q in questions for answer in q.answers if _key(q, answer) not in known}
        groups = [
            Group(as_read(q.prompt, self._scorer), (), (Completion((), answer, finished=True),))
            for (_, answer), q in new.items()
        ]
        for key, (score,) in zip(new, self.scores(groups), strict=True):
            known[key] = cast(float, score.value)  # which a model always has
        return known

    def _verdict(self, scores: Sequence[float]) -> Verdict:
        margin = (scores[0] - scores[1] if len(scores) > 1 else scores[0]) / self.temperature
        told = " to ".join(f"{score:.4g}" for score in scores)
        return Verdict("value", 0.5 + 0.5 * math.tanh(margin / 2), told)  # σ(x), which does not overflow


def _key(question: Question, answer: str) -> tuple[str, str]:
    return repr(question.prompt), answer
