"""Reward `constitution`: a judge asked about the answers of a group, principle by principle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from annotated_types import Ge

from alignzoo import Group, Policy, Question, Score, Verdict
from alignzoo.judging import Criterion, JudgedReward
from alignzoo_constitution.files import Principle, chosen, load


@dataclass(frozen=True)
class Constitution(JudgedReward):
    """A judge's opinion of the answers, asked by each principle of a constitution and weighted.

    pairwise: each principle's verdict on a pair is a comparison with the principle's share, w / Σ w, of the weight; the
    scores are Bradley-Terry's over all of them, as in reward `judge`, and sum to 0 in every group. pointwise: the score
    is Σ w·v / Σ w over the principles by which the judge has given a value.

    The parts tell of each principle by itself: its value, or how probably an answer is preferred by it to the others.
    Bai et al. 2022 (arXiv:2212.08073) sec. 4.1 ask by one principle, drawn at random for each comparison, and clamp the
    judge's probabilities to 40-60 %: principles_per_comparison = 1, clamp = [0.4, 0.6]. They then train a preference
    model on the verdicts; here they are the reward.
    """

    constitution: str = "zoo"
    """One that ships with alignzoo ("zoo", "safe"), a TOML file, or a folder with Anthropic's JSON."""
    principles: tuple[str, ...] = ()
    """Only these of its principles, by name; empty: all that have a question."""
    principles_per_comparison: Annotated[int, Ge(0)] = 0
    """So many, drawn by weight for each pair, or pointwise for each group; 0: all."""
    examples: Annotated[int, Ge(0)] = 0
    """How many of a principle's examples the judge is shown before each question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen(load(self.constitution), self.principles, asks="question")  # what is wrong is said at the door

    @cached_property
    def criteria(self) -> tuple[Criterion, ...]:
        """What the judge is asked by, read once."""
        wanted = chosen(load(self.constitution), self.principles, asks="question")
        return tuple(Criterion(each.question, each.name, each.weight, self._examples(each)) for each in wanted)

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return self.judged(groups, self.criteria, policy, drawn=self.principles_per_comparison)

    def questions(self, prompts: int, completions: int) -> int:
        criteria = min(self.principles_per_comparison or len(self.criteria), len(self.criteria))
        return self.questions_by(criteria, prompts, completions)

    def _examples(self, principle: Principle) -> tuple[tuple[Question, Verdict], ...]:
        """A principle's examples as questions with their verdicts; by turns the better answer is shown, or is first."""
        shown = []
        for index, example in enumerate(principle.examples[: self.examples]):
            better_first = index % 2 == 0
            answers: tuple[str, ...] = (
                (example.revision, example.answer) if better_first else (example.answer, example.revision)
            )
            if self.mode == "pointwise":
                answers = answers[:1]
            question = Question(example.prompt, answers, principle.question, name=principle.name)
            shown.append((question, Verdict("value", float(better_first), example.critique)))
        return tuple(shown)
