"""Where the steps of an answer end, in its text and in its tokens."""

from __future__ import annotations

from collections.abc import Sequence


def steps_of(text: str, separator: str) -> list[str]:
    """The steps of an answer, without separators; what is blank is no step."""
    return [step for step in text.split(separator) if step.strip()]


def ends(text: str, separator: str) -> list[int]:
    """Up to which letter the answer goes with each of its steps, before the separator that follows."""
    found, at = [], 0
    for piece in text.split(separator):
        if piece.strip():
            found.append(at + len(piece))
        at += len(piece) + len(separator)
    return found


def token_counts(strings: Sequence[str], text: str, separator: str) -> list[int]:
    """How many tokens the answer has with each of its steps: those that begin before the step's text ends.

    `strings` are the tokens' texts, which together hold the answer's, perhaps with white space before it.
    """
    shift = max("".join(strings).find(text), 0)
    starts, at = [], -shift
    for string in strings:
        starts.append(at)
        at += len(string)
    return [sum(start < end for start in starts) for end in ends(text, separator)]
