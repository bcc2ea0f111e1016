"""Votes: what people said of answers, one record each, as the statistics of quality read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["pair", "ranking", "grade"]
"""What a rater is asked of an item: which of two answers is better, the order of several, or a grade for one."""

Value: TypeAlias = float | tuple[int, ...]
"""A pair's is 1.0 where the item's first answer is better, 0.0 where the second is, 0.5 for a tie; a ranking's is a
rank for each answer, 1 the best, ties sharing one; a grade is a number."""


@dataclass(frozen=True)
class Vote:
    """One rater's last word on one item."""

    item: str
    """The item's key; those that are asked twice of one rater have one key."""
    rater: str
    """The rater's name."""
    kind: Kind
    """What was asked."""
    value: Value
    """The verdict, in the item's own stored order of answers, not in that of the screen."""
    seconds: float
    """From when the item was shown to when the vote was given."""
    left: str | None
    """Which answer of a pair stood on the left of the screen: "first", "second"; None for other kinds."""
    gold: bool
    """Whether the item's right verdict is known beforehand, to test raters by."""
    repeat: bool
    """Whether the rater had been asked this item before."""
    at: float
    """When the vote was given, in seconds since 1970."""
