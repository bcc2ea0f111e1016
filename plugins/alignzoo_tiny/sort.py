"""Task `sort`: put letters in order, `sort d b c` -> `= b c d`. The truth can be checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations
from zlib import crc32

from alignzoo import DataError
from alignzoo_tiny.grammar import tidy

LETTERS = "abcdefgh"
SIZES = (3, 4, 5)


def split_of(letters: Sequence[str]) -> str:
    """A fifth of the puzzles is held out, by a checksum of the letters as they stand."""
    return "heldout" if crc32("".join(letters).encode()) % 5 == 0 else "train"


def prompts(split: str) -> list[str]:
    """Every puzzle of a split, "train" or "heldout"."""
    return [
        f"sort {' '.join(letters)}"
        for size in SIZES
        for letters in permutations(LETTERS, size)
        if split_of(letters) == split
    ]


def understand(prompt: str) -> list[str]:
    """The letters to be sorted."""
    command, *letters = prompt.split() or [""]
    known = set(letters) <= set(LETTERS) and len(set(letters)) == len(letters)
    if command != "sort" or not known or len(letters) not in SIZES:
        raise DataError(f"The task 'sort' knows 'sort' and 3 to 5 different letters of {LETTERS!r}, not {prompt!r}.")
    return letters


def answer(prompt: str) -> str:
    """The right reply."""
    return _state(sorted(understand(prompt)))


def write(prompt: str, quality: float, rng: random.Random) -> str:
    """What a writer answers who is right with chance `quality`.

    The wrong answers are habits, not noise: the letters as they were (three in five) or backwards (two in five). So
    the likeliest answer of a model that learned from such writers need not be the right one.
    """
    if rng.random() < quality:
        return answer(prompt)
    return rng.choices(habits(prompt), weights=(3, 2))[0]


def habits(prompt: str) -> tuple[str, str]:
    """The two wrong answers that writers give: as it was, and backwards."""
    letters = understand(prompt)
    backwards = sorted(letters, reverse=True)
    return _state(letters), _state(backwards)


def gold(prompt: str, reply: str, finished: bool = True) -> float:
    """1 for the right answer, ended; else 0."""
    return float(finished and tidy(reply) == answer(prompt))


def rates(prompt: str, reply: str) -> dict[str, float]:
    """Gold says it all."""
    return {}


def _state(letters: list[str]) -> str:
    return f"= {' '.join(letters)}"
