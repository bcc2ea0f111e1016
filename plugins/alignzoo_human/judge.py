"""Judge `human`: people answer what a judge is asked, so that they stand wherever an AI judge does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from alignzoo import Policy, Question, Verdict, live_of
from alignzoo_human.desk import Answer, AskingPeople, Desk
from alignzoo_human.items import Item
from alignzoo_human.sources import like


@dataclass(frozen=True)
class HumanJudge(AskingPeople):
    """People, who are asked in a browser: which of two answers is better, or how good one is.

    A pair is asked once, whichever answer stands first in the question: the page draws the sides. Its verdict is the
    share of the raters who prefer the first one, a tie counting half; of a single answer the mean grade, from 0 to 1.
    A question that everybody skips is an abstention, and so is one that nobody answered in time with
    `on_timeout="abstain"`.
    """

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        """A verdict on each question, when people have answered all."""
        desk: Desk = live_of(self)
        found = desk.ask(
            [_item(question) for question in questions if len(set(question.answers)) == len(question.answers)]
        )
        return [_verdict(question, found, desk.store.settings.grades) for question in questions]


def _item(question: Question) -> Item:
    answers = [like(question.prompt, answer) for answer in question.answers]
    kind = "grade" if len(answers) == 1 else "pair"
    return Item.made(kind, question.prompt, answers, criterion=question.criterion)


def _verdict(question: Question, found: dict[str, Answer], grades: int) -> Verdict:
    if len(set(question.answers)) < len(question.answers):
        return Verdict("value", 0.5, "the answers are the same")
    item = _item(question)
    answer = found[item.key]
    values = [vote.value for vote, _ in answer.votes if not isinstance(vote.value, tuple)]
    if not values:
        return Verdict("abstain", note=answer.note or "nobody answered")
    if item.kind == "grade":
        return Verdict("value", (fmean(values) - 1) / (grades - 1), answer.note)
    first = item.answers[0] == like(question.prompt, question.answers[0])
    return Verdict("value", fmean(values) if first else 1 - fmean(values), answer.note)
