"""Items: what people are asked. A question with the answers that are compared, ranked or graded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alignzoo.errors import DataError
from alignzoo.types import Text
from alignzoo_human.votes import Kind, Value

Reasons = Literal["off", "optional", "required"]


@dataclass(frozen=True)
class Item:
    """A question to people. Its answers stand in an order of their own, by which the same question is known again."""

    kind: Kind
    """Which of two is better, the order of several, or a grade for one."""
    prompt: Text
    """What the answers answer."""
    answers: tuple[Text, ...]
    """Sorted, so that they tell nothing of where they come from."""
    origins: tuple[Mapping[str, Any], ...] = ()
    """Who generated each answer, with which settings and scores. It never reaches the page."""
    criterion: str = ""
    """What raters are to go by in this question; empty: what the page says."""
    gold: Value | None = None
    """The right verdict, where the question tests raters."""

    @classmethod
    def made(
        cls,
        kind: Kind,
        prompt: Text,
        answers: Sequence[Text],
        *,
        origins: Sequence[Mapping[str, Any]] = (),
        criterion: str = "",
        gold: Value | None = None,
    ) -> Item:
        """The item of these answers, in whichever order they come; origins and a known verdict move with them."""
        check(kind, len(answers))
        if len({written(answer) for answer in answers}) < len(answers):
            raise DataError(f"two answers to {str(prompt)[:80]!r} are the same, and cannot be compared")
        order = sorted(range(len(answers)), key=lambda i: written(answers[i]))
        return cls(
            kind,
            prompt,
            tuple(answers[i] for i in order),
            tuple(origins[i] for i in order) if origins else (),
            criterion,
            None if gold is None else arranged(kind, gold, order),
        )

    @property
    def key(self) -> str:
        """The SHA-256 of what is asked."""
        asked = [self.kind, self.prompt, self.answers, self.criterion]
        return hashlib.sha256(written(asked).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Settings:
    """How a store's questions are asked: kept in it, so that a resumed session is the same."""

    criteria: tuple[str, ...] = ()
    """What reasons are given by: "helpful", "harmless"."""
    grades: int = 5
    """The best grade of a single answer; the worst is 1. With 2 they are bad and good."""
    reasons: Reasons = "optional"
    """Whether raters are asked why."""
    markdown: bool = False
    """Show answers as Markdown; else as the text that they are."""
    gold_share: float = 0.05
    """The share of questions whose right verdict is known, where there are such."""
    repeat_share: float = 0.0
    """The share of questions that a rater is asked once more, sides flipped."""
    repeat_after: int = 10
    """How many questions lie between a question and its repetition at least."""
    lease: float = 600.0
    """Seconds for which a question that somebody looks at is kept from others."""
    show_others: bool = False
    """Show other raters' verdicts once one's own is in."""
    instructions: str = ""
    """What raters are to go by."""
    salt: str = field(default="", repr=False)
    """From which sides and repetitions are drawn."""


def check(kind: str, n: int) -> None:
    """Raise where so many answers are none of this kind."""
    wants = {"pair": n == 2, "ranking": n >= 2, "grade": n == 1}
    if not wants[kind]:
        number = {"pair": "two answers", "ranking": "two answers or more", "grade": "one answer"}[kind]
        raise DataError(f"a {kind} has {number}, found {n}")


def arranged(kind: str, value: Value, order: Sequence[int]) -> Value:
    """A verdict on answers 0, 1, ... as the verdict on those same answers in the order `order`."""
    if kind == "pair" and not isinstance(value, tuple):
        return value if tuple(order) == (0, 1) else 1 - value
    return tuple(value[i] for i in order) if isinstance(value, tuple) else value


def restored(kind: str, value: Value, order: Sequence[int]) -> Value:
    """The inverse of `arranged`: a verdict on answers in the order `order`, on answers 0, 1, ..."""
    if not isinstance(value, tuple):
        return arranged(kind, value, order)
    places = sorted(range(len(order)), key=lambda place: order[place])
    return tuple(value[place] for place in places)


def dense(ranks: Sequence[float]) -> tuple[int, ...]:
    """Ranks from 1 on without gaps; equal ones stay equal."""
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)), 1)}
    return tuple(places[rank] for rank in ranks)


def written(value: Any) -> str:
    """A value as JSON, always the same."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=dict, separators=(",", ":"))


def text_of(value: Any) -> Text:
    """A text as it was before JSON."""
    return value if isinstance(value, str) else tuple(value)


def draw(*parts: object) -> float:
    """A number from 0 to 1 that depends on nothing but these."""
    digest = hashlib.sha256(written([str(part) for part in parts]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def shuffled(n: int, *parts: object) -> tuple[int, ...]:
    """An order of n things that depends on nothing but these."""
    return tuple(sorted(range(n), key=lambda i: draw(*parts, i)))
