"""Asking a judge: every verdict checked, both orders of a pair, and what becomes of errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from alignzoo import functional as fn
from alignzoo.errors import RewardError
from alignzoo.interfaces import Judge, Policy
from alignzoo.types import Question, Verdict

OnError: TypeAlias = Literal["stop", "retry", "drop-sample", "drop-group"]
"""What becomes of a question that a judge could not answer."""

Orders: TypeAlias = Literal["both", "one"]
"""Whether a pair is shown in both orders, or in one that is drawn."""

Tally: TypeAlias = Counter[str]
"""How many verdicts there were, and of which kind: "questions", "abstained", "errors"."""


@dataclass(frozen=True)
class Preference(Verdict):
    """A judge's verdict on a pair, over the orders in which it was shown.

    `value` is the probability that the question's first answer is better, the mean over both orders. A value takes
    every order: where one of them is an error or an abstention, so is the whole.
    """

    leaning: float | None = None
    """How much the judge leans to what is shown first, -0.5 to 0.5: (p₁ + p₂)/2 - 0.5, where p is the probability
    that it gave to the answer shown first in each order. None unless both orders have a value."""
    consistent: bool | None = None
    """Whether both orders have the same winner, or both none."""


def ask(
    judge: Judge,
    questions: Sequence[Question],
    policy: Policy | None,
    *,
    on_error: OnError = "stop",
    attempts: int = 3,
    tally: Tally | None = None,
) -> list[Verdict]:
    """One verdict per question, in order.

    Where the judge answers an error: "stop" raises RewardError; "retry" asks that question again, `attempts` times in
    all, and then raises; with the others the error comes back, for the caller to drop what it was about.
    """
    verdicts = _asked(judge, questions, policy, tally)
    for _ in range(attempts - 1 if on_error == "retry" else 0):
        failed = [i for i, verdict in enumerate(verdicts) if verdict.kind == "error"]
        if not failed:
            break
        for i, verdict in zip(failed, _asked(judge, [questions[i] for i in failed], policy, tally), strict=True):
            verdicts[i] = verdict
    errors = [verdict for verdict in verdicts if verdict.kind == "error"]
    if errors and on_error in ("stop", "retry"):
        raise RewardError(
            f"the judge could not answer {len(errors)} of {len(verdicts)} questions; the first: {errors[0].note}. "
            "With on_error='drop-sample' or 'drop-group' a run goes on without them"
        )
    return verdicts


def _asked(judge: Judge, questions: Sequence[Question], policy: Policy | None, tally: Tally | None) -> list[Verdict]:
    if not questions:
        return []
    verdicts = list(judge.judge(questions, policy))
    if len(verdicts) != len(questions) or not all(isinstance(verdict, Verdict) for verdict in verdicts):
        raise RewardError(
            f"the judge {type(judge).__name__} gave {len(verdicts)} verdicts for {len(questions)} questions, or some "
            "that are no Verdict: one Verdict per question is expected"
        )
    if tally is not None:
        tally["questions"] += len(verdicts)
        tally["abstained"] += sum(verdict.kind == "abstain" for verdict in verdicts)
        tally["errors"] += sum(verdict.kind == "error" for verdict in verdicts)
    return verdicts


def prefer(
    judge: Judge,
    questions: Sequence[Question],
    policy: Policy | None,
    *,
    orders: Orders = "both",
    seed: int = 0,
    on_error: OnError = "stop",
    attempts: int = 3,
    tally: Tally | None = None,
) -> list[Preference]:
    """Which answer of each pair is better, each question having two.

    With `orders="both"` every pair is shown in both orders, all in one call of the judge. With "one" its order is
    drawn from the seed and the pair's own text: half of all pairs are turned round, the same ones every time.
    """
    both = orders == "both"
    turned = [both or fn.derive(seed, "order", *question.answers) % 2 == 1 for question in questions]
    straight = [i for i, turn in enumerate(turned) if both or not turn]
    around = [i for i, turn in enumerate(turned) if turn]
    asked = [questions[i] for i in straight] + [swapped(questions[i]) for i in around]
    verdicts = ask(judge, asked, policy, on_error=on_error, attempts=attempts, tally=tally)
    first = dict(zip(straight, verdicts, strict=False))
    second = dict(zip(around, verdicts[len(straight) :], strict=True))
    return [_preference(first.get(i), second.get(i)) for i in range(len(questions))]


def swapped(question: Question) -> Question:
    """The same pair, shown the other way round."""
    first, second = question.answers
    return replace(question, answers=(second, first))


def _preference(straight: Verdict | None, around: Verdict | None) -> Preference:
    """The preference of two verdicts, on a pair in both orders; either may not have been asked for."""
    given = [verdict for verdict in (straight, around) if verdict is not None]
    note = " / ".join(dict.fromkeys(verdict.note for verdict in given if verdict.note))
    for kind in ("error", "abstain"):
        if any(verdict.kind == kind for verdict in given):
            return Preference(kind, note=note)
    shown_first = [verdict.value or 0.0 for verdict in given]
    for_first = ([shown_first[0]] if straight else []) + ([1 - shown_first[-1]] if around else [])
    if len(given) == 1:
        return Preference("value", for_first[0], note)
    winners = [(p > 0.5) - (p < 0.5) for p in for_first]
    return Preference("value", sum(for_first) / 2, note, sum(shown_first) / 2 - 0.5, winners[0] == winners[1])
