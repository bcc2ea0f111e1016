"""What a writer is shown when it is asked for a critique or a revision: as a conversation, or as the paper's text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alignzoo import Message, Text
from alignzoo_constitution.principle import Example, Principle

Step = tuple[str, str]
"""A mark and what stands behind it."""

SPOKEN_BY = {
    "Human": "user",
    "Assistant": "assistant",
    "CritiqueRequest": "user",
    "Critique": "assistant",
    "RevisionRequest": "user",
    "Revision": "assistant",
}
"""The paper's marks, in the order of a dialogue, and who speaks there."""

MARK = re.compile(rf"\n\n(?:{'|'.join(SPOKEN_BY)}):")


def request(
    asked: Text, answer: str, principle: Principle, critique: str | None = None, *, examples: Sequence[Example] = ()
) -> Text:
    """What the writer goes on with: a request for a critique of the answer; with the critique, for its revision."""
    steps = _steps(principle, critique)
    shown = [step for example in examples for step in _whole(example, principle)]
    if isinstance(asked, str):
        opened = "Critique" if critique is None else "Revision"
        return f"{_text(shown)}{asked}{answer}{_text(steps)}\n\n{opened}:"
    return (*_messages(shown), *asked, *_messages([("Assistant", answer), *steps]))


def ended(text: str) -> tuple[str, bool]:
    """What stands before the next mark of the paper's text, and whether there was one."""
    own, *rest = MARK.split(text, maxsplit=1)
    return own.strip(), bool(rest)


def _steps(principle: Principle, critique: str | None) -> list[Step]:
    steps = [("CritiqueRequest", principle.critique)]
    return steps if critique is None else [*steps, ("Critique", critique), ("RevisionRequest", principle.revision)]


def _whole(example: Example, principle: Principle) -> list[Step]:
    """An example, from its question to its revision."""
    marks = {role: mark for mark, role in reversed(SPOKEN_BY.items())}  # of each role the first: Human, Assistant
    asked = [(marks[turn["role"]], turn["content"]) for turn in example.turns]
    return [*asked, ("Assistant", example.answer), *_steps(principle, example.critique), ("Revision", example.revision)]


def _text(steps: Sequence[Step]) -> str:
    return "".join(f"\n\n{mark}: {text}" for mark, text in steps)


def _messages(steps: Sequence[Step]) -> list[Message]:
    return [{"role": SPOKEN_BY[mark], "content": text} for mark, text in steps]
