"""A principle: one thing that is asked of an answer, and examples of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.types import Message, Text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Example:
    """An answer, what is wrong with it by the principle, and the better one: for a revision or a comparison."""

    prompt: Text
    """What was asked: the user's one turn as a string, or a whole conversation."""
    answer: str
    """The answer that is criticised; in a comparison the worse one."""
    revision: str
    """The better answer."""
    critique: str = ""
    """What is wrong with the answer; an example without it serves comparisons alone."""

    @property
    def turns(self) -> tuple[Message, ...]:
        """The prompt as a conversation."""
        return ({"role": "user", "content": self.prompt},) if isinstance(self.prompt, str) else self.prompt


@dataclass(frozen=True)
class Principle:
    """One thing that is asked of an answer, in three forms: how to criticise it, to revise it, to compare two.

    A principle may serve revisions alone or comparisons alone, as Anthropic's do; then the other form is empty.
    """

    name: str
    """How it is called in metrics and samples: letters, digits, '-' and '_'."""
    critique: str = ""
    """Asks the writer for what is wrong with its last answer."""
    revision: str = ""
    """Asks the writer for a better answer after the critique."""
    question: str = ""
    """Asks a judge how good an answer is, or which of two is better."""
    weight: Annotated[float, Gt(0)] = 1.0
    """How much it counts: how often it is drawn for a revision, and its share of the reward."""
    examples: tuple[Example, ...] = ()
    """Shown to the writer or the judge before it is asked."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("name: allowed are letters, digits, '-' and '_'")
        if bool(self.critique.strip()) != bool(self.revision.strip()):
            raise ValueError("critique and revision belong together: give both or neither")
        if not self.critique.strip() and not self.question.strip():
            raise ValueError("it asks for nothing: give critique and revision, or a question, or all three")


def chosen(principles: Sequence[Principle], only: Sequence[str], *, asks: str) -> tuple[Principle, ...]:
    """Those named in `only`, or all, that have the form `asks`: "critique" or "question". Raises where none has."""
    known = {principle.name: principle for principle in principles}
    for name in only:
        if name not in known:
            raise RecipeError(f"principles: the constitution has no {name!r}. {did_you_mean(name, known)}")
        if not getattr(known[name], asks):
            raise RecipeError(f"principles: {name!r} of the constitution has no {asks}, which is needed here")
    wanted = tuple(each for each in principles if getattr(each, asks) and (not only or each.name in only))
    if not wanted:
        raise RecipeError(f"no principle of the constitution has a {asks}, which is needed here")
    return wanted
