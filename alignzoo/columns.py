"""The table of columns: what an optimizer may need, who answers it, and what it looks like.

A column is an answer by a role. The policy that is trained has no prefix and answers with gradient: `logprobs`. Every
other role answers without: `old_logprobs` is the policy before the step's first update, `ref_logprobs` the reference,
and `teacher_logprobs` the second policy of an optimizer with a field `teacher: PolicySpec`. Answers that compare two
whole distributions name the other role and have a gradient in the policy: `teacher_jsd:0.5`. Everything that speaks
of columns (the contract, batches, passes, cost, cards, the conformance kit) reads this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from alignzoo.errors import did_you_mean

POLICY, OLD, REFERENCE = "", "old", "ref"
"""The roles that every run has: the trained policy, itself before the step's first update, and the reference."""


@dataclass(frozen=True)
class Answer:
    """One thing that a policy can be asked about the tokens or rows of a batch."""

    name: str
    per: Literal["token", "row"]
    """A number for each completion token, (N, T) and 0 where the mask is False; or one for each row, (N,)."""
    what: str
    """What it is, in words."""
    of: Literal["language", "critic", "scorer"] = "language"
    """Which part of the model answers: its language-model head; a critic, which is a head of its own for each such
    answer, trained beside the policy; or the scoring head."""
    compares: bool = False
    """It compares the policy's distribution over the vocabulary with another role's, which its column names."""
    option: str = ""
    """What the number behind a colon means; empty where there is none."""
    default: float = 0.0
    """That number where it is not given."""


ANSWERS: Mapping[str, Answer] = {
    each.name: each
    for each in (
        Answer("logprobs", "token", "log π(token t | tokens before it)"),
        Answer("entropy", "token", "entropy of π(· | tokens before t), in nats"),
        Answer("collision", "token", "Σ_v π(v | tokens before t)², the chance that two samples agree"),
        Answer("values", "token", "the critic's value of the state before token t", "critic"),
        Answer("cost_values", "token", "the second critic's value of it: of costs, or progress", "critic"),
        Answer(
            "scores",
            "row",
            "a scoring head's output at the last token of the row",
            "scorer",
            option="which of the head's outputs, from 0; the policy's own setting says where it is not given",
        ),
        Answer("token_scores", "token", "the scoring head's output at token t, of tokens 0..t", "scorer"),
        Answer("kl", "token", "forward KL(role ‖ π) over the vocabulary, in nats", compares=True),
        Answer("reverse_kl", "token", "reverse KL(π ‖ role) over the vocabulary, in nats", compares=True),
        Answer(
            "jsd",
            "token",
            "generalised Jensen-Shannon divergence β·KL(role ‖ m) + (1-β)·KL(π ‖ m), m = β·role + (1-β)·π",
            compares=True,
            option="β, from 0 to 1, where 0 is the forward and 1 the reverse KL; 0.5 where it is not given",
            default=0.5,
        ),
        Answer(
            "skew_kl",
            "token",
            "skew KL(role ‖ α·role + (1-α)·π) over the vocabulary, in nats",
            compares=True,
            option="α, from 0, the forward KL, to below 1; 0.1 where it is not given",
            default=0.1,
        ),
        Answer(
            "skew_reverse_kl",
            "token",
            "skew KL(π ‖ α·π + (1-α)·role) over the vocabulary, in nats",
            compares=True,
            option="α, from 0, the reverse KL, to below 1; 0.1 where it is not given",
            default=0.1,
        ),
        Answer(
            "top_kl",
            "token",
            "forward KL(role ‖ π) over the role's k most likely tokens and, as one more, all others together",
            compares=True,
            option="k, 1 or more; 64 where it is not given",
            default=64,
        ),
    )
}
"""Every answer by name. To add one is to add a line here, and to answer it in the policies that can."""


@dataclass(frozen=True)
class Column:
    """One column, taken apart."""

    name: str
    role: str
    answer: Answer
    option: float | None = None

    @property
    def trained(self) -> bool:
        """Whether the training forward pass answers it, with gradient."""
        return self.role == POLICY or self.answer.compares

    @property
    def number(self) -> float:
        """The number behind the colon, or what stands for it where there is none."""
        return self.answer.default if self.option is None else self.option

    def __str__(self) -> str:
        return self.name


_ROLE, _OPTION = r"(?:(?P<role>[a-z][a-z0-9_]*?)_)??", r"(?::(?P<option>[0-9]+(?:\.[0-9]+)?))?"


@cache
def _pattern(answers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"{_ROLE}(?P<answer>{'|'.join(answers)}){_OPTION}")


def _taken_apart(name: str) -> re.Match[str] | None:
    return _pattern(tuple(ANSWERS)).fullmatch(name)


@cache
def column(name: str) -> Column:
    """The column of this name. Raises ValueError, which says what is wrong, for a name that is none."""
    found = _taken_apart(name)
    if found is None:
        raise ValueError(f"no such column. {did_you_mean(name, _examples())}")
    role, answer = found["role"] or POLICY, ANSWERS[found["answer"]]
    if answer.compares and role in (POLICY, OLD):
        raise ValueError(f"{answer.name!r} compares the policy with another role: write 'ref_{name}', or a role's name")
    if found["option"] is not None and not answer.option:
        raise ValueError(f"{answer.name!r} takes no number behind a colon")
    return Column(name, role, answer, None if found["option"] is None else _option(answer, found["option"]))


def _option(answer: Answer, text: str) -> float:
    value = float(text)
    if answer.name == "jsd" and not 0 <= value <= 1:
        raise ValueError(f"β of {answer.name!r} is {text}, expected a number from 0 to 1")
    if answer.name.startswith("skew_") and not 0 <= value < 1:
        raise ValueError(f"α of {answer.name!r} is {text}, expected a number from 0 to below 1")
    if answer.name == "scores" and value != int(value):
        raise ValueError(f"the output of {answer.name!r} is {text}, expected a whole number from 0 on")
    if answer.name == "top_kl" and (value < 1 or value != int(value)):
        raise ValueError(f"k of {answer.name!r} is {text}, expected a whole number from 1 on")
    return value


def _examples() -> list[str]:
    """The columns that every run can have, to choose from."""
    own = [each.name for each in ANSWERS.values() if not each.compares]
    compared = [f"{REFERENCE}_{each.name}" for each in ANSWERS.values() if each.compares]
    return [*own, "old_logprobs", "old_values", "ref_logprobs", *compared]


def is_filled(name: str) -> bool:
    """Whether a name is that of a column which another role than the policy fills."""
    found = _taken_apart(name)
    return found is not None and found["role"] is not None and not ANSWERS[found["answer"]].compares


def trained(needs: Iterable[str]) -> frozenset[str]:
    """The columns that the forward pass with gradient answers."""
    return frozenset(name for name in needs if column(name).trained)


def filled(needs: Iterable[str]) -> frozenset[str]:
    """The columns that stand in the batch before `prepare` or `loss` reads it, answered without gradient."""
    return frozenset(name for name in needs if not column(name).trained)


def by_role(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """The answers wanted of each role that fills columns, in a fixed order: {"old": {"logprobs", "values"}, ...}."""
    found: dict[str, set[str]] = {}
    for each in sorted(filled(names)):
        found.setdefault(column(each).role, set()).add(column(each).answer.name)
    return {role: frozenset(answers) for role, answers in found.items()}


def roles(names: Iterable[str]) -> frozenset[str]:
    """The roles beside the policy that these columns speak of."""
    return frozenset(column(name).role for name in names) - {POLICY}


def compared(names: Iterable[str]) -> frozenset[str]:
    """The roles whose distribution over the vocabulary these columns compare the policy's with."""
    return frozenset(column(name).role for name in names if column(name).answer.compares)


def of_part(names: Iterable[str], part: Literal["language", "critic", "scorer"]) -> frozenset[str]:
    """Those of these columns that this part of the model answers."""
    return frozenset(name for name in names if column(name).answer.of == part)


def answered_by(names: Iterable[str], part: Literal["language", "critic", "scorer"]) -> frozenset[str]:
    """What this part of the trained policy has to answer for these columns: "values" for `old_values`, too."""
    return frozenset(column(name).answer.name for name in of_part(names, part))


def outputs(names: Iterable[str]) -> int:
    """How many outputs a scoring head has to have for these columns: 3 for `scores:2`."""
    found = [column(name) for name in of_part(names, "scorer")]
    return max((int(each.option or 0) + 1 for each in found), default=1)


def named(role: str, answers: Iterable[str]) -> frozenset[str]:
    """The names of a role's columns: {"old_logprobs"} of "old" and {"logprobs"}."""
    return frozenset(f"{role}_{answer}" if role else answer for answer in answers)
