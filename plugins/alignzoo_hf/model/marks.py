"""Tokens that end a text or stand around turns, where data spell them: a tokenizer reads them as these tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alignzoo.types import Message


@dataclass(frozen=True)
class Marks:
    """Such tokens, as a pattern of their spellings."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, tokens: Iterable[str]) -> Marks:
        """The marks that are spelt like this, the longest tried first."""
        return cls(re.compile("|".join(sorted(map(re.escape, tokens), key=len, reverse=True)) or "(?!)"))

    def anywhere(self, text: str) -> str:
        """The first that a text spells; "" for none."""
        found = self.pattern.search(text)
        return found[0] if found else ""

    def within(self, text: str) -> str:
        """One that a text spells before its end, which may be such tokens and white space; "" for none."""
        end = len(text)
        for found in reversed(list(self.pattern.finditer(text))):
            if text[found.end() : end].strip():
                return found[0]
            end = found.start()
        return ""


def unended(turn: Message, ends: Sequence[str]) -> Message:
    """A turn without the ends that its text spells behind it, which its template writes."""
    said = turn["content"]
    while (kept := said.rstrip()).endswith(tuple(ends)):
        said = kept[: -max(len(end) for end in ends if kept.endswith(end))]
    return turn if said == turn["content"] else {**turn, "content": said.rstrip()}


def outer(tokens: Iterable[str], special: Iterable[str]) -> list[str]:
    """The tokens but for pairs of tags, <think> and </think> say, which a model writes within its answer."""
    known = set(special)
    tags = {token: re.fullmatch(r"</?(\w+)>", token) for token in tokens}
    return [token for token, tag in tags.items() if not (tag and {f"<{tag[1]}>", f"</{tag[1]}>"} <= known)]
