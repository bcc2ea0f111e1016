"""Labelled pairs, by which a judge is examined: two answers, and what people said of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignzoo.errors import DataError, did_you_mean
from alignzoo.judging.agreement import majority
from alignzoo.types import Prompt, Question, Text

LABELS = "labels"
"""How the one rater is called of data that name none."""


@dataclass(frozen=True)
class Pair:
    """Two answers, and each rater's verdict: 1 the first is better, 2 the second, 0 neither."""

    prompt: Text
    answers: tuple[str, str]
    votes: Mapping[str, int]
    info: Mapping[str, Any]

    @property
    def truth(self) -> int | None:
        """What most raters say; None where there is no majority."""
        return majority(list(self.votes.values()))

    @property
    def longer(self) -> int:
        """By how many words the first answer is longer."""
        first, second = (len(answer.split()) for answer in self.answers)
        return first - second

    def question(self, criterion: str, name: str) -> Question:
        """Which of the two is better?"""
        return Question(self.prompt, self.answers, criterion, self.info, name)


def pairs_of(prompts: Sequence[Prompt], annotators: Sequence[str] = ()) -> list[Pair]:
    """The labelled pairs of some data; of a ranking, its best and its worst.

    `annotators` names the columns with raters' votes, 0, 1 or 2 as in PandaLM; without any, those called annotator1,
    annotator2, ... count, and where there are none the labels are one rater.
    """
    found = [_pair(prompt, annotators) for prompt in prompts if len(prompt.completions) > 1 and prompt.labels]
    if not found:
        raise DataError(
            "the data hold no labelled pairs: a judge is examined on prompts with two answers or more and what people "
            "said of them, as in the formats preference, hh, pandalm, alpaca-eval, ranks or scores"
        )
    return found


def vote_of(value: Any, where: str) -> int:
    """A rater's vote."""
    if str(value) not in ("0", "1", "2"):
        raise DataError(f"{where}: expected a vote, 0 (neither), 1 or 2, found {value!r}")
    return int(value)


def _pair(prompt: Prompt, annotators: Sequence[str]) -> Pair:
    raters = list(annotators) or sorted(name for name in prompt.info if re.fullmatch(r"annotator\d+", name))
    missing = [name for name in raters if name not in prompt.info]
    if missing:
        raise DataError(f"the data have no column {missing[0]!r}. {did_you_mean(missing[0], prompt.info)}")
    if raters and len(prompt.completions) > 2:
        raise DataError(f"raters' votes are of two answers, but here are {len(prompt.completions)}")
    ends = sorted((prompt.labels.index(max(prompt.labels)), prompt.labels.index(min(prompt.labels))))
    first, second = ends if ends[0] != ends[1] else (0, 1)  # all alike: any two are a tie
    gap = prompt.labels[first] - prompt.labels[second]
    votes = {name: vote_of(prompt.info[name], f"column {name!r}") for name in raters}
    return Pair(
        prompt.messages,
        (answer_text(prompt.completions[first]), answer_text(prompt.completions[second])),
        votes or {LABELS: 1 if gap > 0 else 2 if gap < 0 else 0},
        prompt.info,
    )


def answer_text(completion: Text) -> str:
    """An answer as a judge is shown it: of a conversation that goes on after it, all turns."""
    return completion if isinstance(completion, str) else "\n\n".join(turn["content"] for turn in completion)
