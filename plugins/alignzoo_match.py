"""A verifiable reward: whether a completion's answer is the right one, as text, pattern, number or mathematics."""

from __future__ import annotations

import decimal
import numbers
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

import alignzoo
from alignzoo import Group, Policy, Prompt, RewardError, Score
from alignzoo.interfaces import CheckContext

DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = re.compile(
    rf"(?<![\d^])(?<!\^[-{{])(?<!\^{{-)((?:(?<![\w)])[-+])?(?:\d+ (?=\d+/\d))?)({DIGITS})(?:/({DIGITS}))?(?![\d^]|\.\d)"
)
"""A number, a quotient, or a whole number and a quotient: with a sign unless something is subtracted, with commas
between thousands; neither an exponent nor what has one."""
AS_WRITTEN: Sequence[tuple[str, str]] = (
    ("\u2212", "-"),  # the sign that typesetting has for the hyphen of a keyboard
    (r"\{,\}|(?<=\d),\\!(?=\d)", ","),
    (r"(?<=[-+])\\?[$\u00a3\u20ac](?=[\d.])", ""),
    (r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r" \1/\2"),
    (r"([-+]) (?=\d+/\d)", r"\1"),
    (r"(?<![\d.])10\^(?:\{([-+]?\d+)\}|([-+]?\d+))", r"1e\1\2"),
    (r"(?<=\d)\s*(?:\\times|\\cdot|[*x\u00d7\u00b7])\s*1e(?=[-+\d])", "e"),
)
"""Patterns of other spellings of the same number, and how NUMBER has them; in this order."""


EXACT = decimal.Context(prec=50, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
"""For quotients and differences; whole numbers are as long as they are written."""


def _last_number(text: str) -> Decimal | None:
    """The last number that a text holds, exactly, and None where it holds none."""
    for pattern, plain in AS_WRITTEN:
        text = re.sub(pattern, plain, text)
    for before, above, below in reversed(NUMBER.findall(text)):
        try:
            value = Decimal(above.replace(",", ""))
            value = EXACT.divide(value, Decimal(below.replace(",", ""))) if below else value
        except ArithmeticError:
            continue  # a quotient by zero is no number, nor is 1e9999999999999999999
        whole = before.strip("+- ")
        value = EXACT.add(Decimal(whole), value) if whole else value
        return value.copy_negate() if before.startswith("-") else value
    return None


@dataclass(frozen=True)
class Match:
    """1 when the completion's answer is right, else 0: a reward that a computer can verify."""

    answer: str = "answer"
    """The data's column with the right answer, or a list of answers, any of which is right."""
    mode: Literal["exact", "regex", "numeric", "math"] = "exact"
    """exact: the same text but for white space around it; regex: the answer is a pattern that the completion must
    contain; numeric: the last number of each, be it -3, 1,234.5, 3/4 or 2 x 10^5; math: equivalent expressions, by
    math-verify."""
    extract: str = ""
    """A pattern whose first group, at its last match, is the completion's answer; empty: the whole completion."""
    tolerance: Annotated[float, Ge(0)] = 1e-6
    """numeric: relative difference that counts as equal, unless both are whole numbers."""
    verifiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _compiled(self.extract)

    def check(self, context: CheckContext) -> None:
        """Raise RewardError where a prompt has no right answer that this mode can read."""
        if self.mode == "math":
            import math_verify  # noqa: F401 - an extra, whose absence is told before the first step
        for number, prompt in enumerate(context.prompts, 1):
            try:
                for right in self._right(prompt):
                    if self.mode != "math":
                        self._judge(right, "")
            except (RewardError, ValueError) as error:
                raise RewardError(f"training prompt {number}, {str(prompt.messages)[:60]!r}: {error}") from error

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(self._score(group.prompt, c.text) for c in group.completions) for group in groups]

    def _score(self, prompt: Prompt, text: str) -> Score:
        right = self._right(prompt)
        if self.extract:
            found = list(_compiled(self.extract).finditer(text))
            if not found:
                return Score(0.0, note="no answer found")
            text = (found[-1].group(1) or "") if found[-1].groups() else found[-1].group()
        scores = [self._judge(each, text) for each in right]
        return max(scores, key=lambda score: -1.0 if score.value is None else score.value)

    def _right(self, prompt: Prompt) -> list[str]:
        """The right answers, any of which counts; raise where the data bring none."""
        if self.answer not in prompt.info:
            raise RewardError(
                f"reward match: the data have no column {self.answer!r} (found: {', '.join(prompt.info) or 'none'}): "
                "set reward.answer to the column with the right answer"
            )
        value = prompt.info[self.answer]
        found = value if isinstance(value, (list, tuple)) else [value]
        if not found or not all(map(_is_answer, found)):
            raise RewardError(
                f"reward match: the column {self.answer!r} has no right answer here, but {str(value)[:80]!r}: leave "
                "the row out, or give it a text, a number, or a list of them, any of which is right"
            )
        return [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in found]

    def _judge(self, right: str, given: str) -> Score:
        if self.mode == "exact":
            return Score(float(given.strip() == right.strip()))
        if self.mode == "regex":
            return Score(float(_compiled(right).search(given) is not None))
        if self.mode == "numeric":
            return self._numeric(right, given)
        return _math(right, given)

    def _numeric(self, right: str, given: str) -> Score:
        expected, found = _last_number(right), _last_number(given)
        if expected is None:
            raise RewardError(f"reward match: the answer {right[:80]!r} holds no number: choose another mode")
        if found is None:
            return Score(0.0, note="no number found")
        if expected == found or all(each == each.to_integral_value() for each in (expected, found)):
            return Score(float(expected == found))
        allowed = EXACT.multiply(Decimal(self.tolerance), max(Decimal(1), expected.copy_abs()))
        return Score(float(EXACT.subtract(expected, found).copy_abs() <= allowed))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _is_answer(value: object) -> bool:
    """Whether a value says what is right: a text that is not empty, or a number."""
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, numbers.Real) and value == value


def _readings(text: str) -> list[str]:
    """As what math-verify is to read a text, in this order: of 2\\pi that stands alone it would find the 2, and of
    prose as an expression the product of its letters."""
    if re.search(r"\$|\\boxed|\\\(|\\\[", text):
        return [text, f"${text}$"]
    plain = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^}]*\}|\\[a-zA-Z]+", "", text)
    return [text] if re.search(r"(?:^|\s)[A-Za-z]{2,}|[A-Za-z]{4,}", plain) else [f"${text}$", text]


def _math(right: str, given: str) -> Score:
    """Equivalence by math-verify, as TRL's accuracy reward has it; an answer that it cannot read is abstained from."""
    from math_verify import parse, verify

    # It keeps time by a signal, which only the main thread can set; elsewhere it would find nothing, silently.
    alarm = threading.current_thread() is threading.main_thread()
    parsing, verifying = (10, 5) if alarm else (None, None)

    def read(text: str) -> Any:
        return next(filter(None, (parse(each, parsing_timeout=parsing) for each in _readings(text))), [])

    expected = read(right)
    if not expected:
        return Score(None, note="the right answer cannot be read as mathematics")
    return Score(float(verify(expected, read(given), timeout_seconds=verifying)))


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("match", Match)
