"""Judges to measure judges by: verdicts that somebody has recorded, and three that are no judges at all."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

import alignzoo
from alignzoo import DataError, Policy, Prompt, Question, Text, Verdict
from alignzoo import functional as fn
from alignzoo.data import Data, read
from alignzoo.errors import did_you_mean


@dataclass(frozen=True)
class Recorded:
    """Verdicts on pairs, played back from a column of a file: 1 the first is better, 2 the second, 0 neither.

    Numbers between 1 and 2 are AlpacaEval's shares of the second. It knows a pair in the order in which it was judged;
    of anything else, a pair turned round or another answer, nothing was recorded, and it abstains.
    """

    path: str
    """The file with the pairs, in any format of the data that has two answers."""
    column: str
    """Whose verdicts: annotator1 in PandaLM's file, preference in AlpacaEval's."""
    format: str = "auto"
    """The file's format, as in a recipe's data."""
    replays: ClassVar[bool] = True

    @cached_property
    def verdicts(self) -> Mapping[tuple[Any, ...], Verdict]:
        """The mean of the recorded verdicts on each pair."""
        said: dict[tuple[Any, ...], list[float]] = {}
        for number, prompt in enumerate(read(Data(self.path, format=self.format)), 1):
            if self.column not in prompt.info:
                hint = did_you_mean(self.column, prompt.info)
                raise DataError(f"{self.path}, row {number}: no column {self.column!r} with verdicts. {hint}")
            said.setdefault(_key(prompt.messages, prompt.completions), []).append(self._share(prompt, number))
        return {pair: Verdict("value", sum(shares) / len(shares)) for pair, shares in said.items()}

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        unknown = Verdict("abstain", note="nothing was recorded of this pair in this order")
        return [self.verdicts.get(_key(each.prompt, each.answers), unknown) for each in questions]

    def _share(self, prompt: Prompt, number: int) -> float:
        """The first answer's share of a verdict."""
        given = prompt.info[self.column]
        try:
            verdict = float(given)
        except (TypeError, ValueError):
            verdict = float("nan")
        if verdict == 0:
            return 0.5
        if not 1 <= verdict <= 2:
            raise DataError(f"{self.path}, row {number}: column {self.column!r}: expected 0, 1 or 2, found {given!r}")
        return 2 - verdict


def _key(prompt: Text, answers: Sequence[Text]) -> tuple[Any, ...]:
    """A pair as a dictionary can keep it."""
    texts = [prompt, *answers]
    return tuple(text if isinstance(text, str) else tuple(tuple(turn.items()) for turn in text) for text in texts)


@dataclass(frozen=True)
class First:
    """Always prefers what it is shown first: no judge."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", 1.0)] * len(questions)


@dataclass(frozen=True)
class Longer:
    """Always prefers the answer with more words: no judge. Of one answer it says words / (words + 50)."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", self._better(*(len(answer.split()) for answer in q.answers))) for q in questions]

    def _better(self, first: int, second: int | None = None) -> float:
        if second is None:
            return first / (first + 50)
        return 1.0 if first > second else 0.0 if first < second else 0.5


@dataclass(frozen=True)
class Random:
    """Rolls dice: no judge. The same question always falls alike; another seed, another answer."""

    seed: Annotated[int, Ge(0)] = 0
    """Seed of the random verdicts."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        texts = [(repr(question.prompt), *question.answers) for question in questions]
        return [Verdict("value", random.Random(fn.derive(self.seed, *text)).random()) for text in texts]


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.judge("recorded", Recorded)
    zoo.judge("first", First)
    zoo.judge("longer", Longer)
    zoo.judge("random", Random)
