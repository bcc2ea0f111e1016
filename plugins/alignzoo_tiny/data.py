"""Drawing the tasks' data: prompts, demonstrations by better writers, and raters' comparisons. All from seeded dice."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

from alignzoo import DataError, Prompt
from alignzoo_tiny.world import WORLDS

ASSETS = Path(__file__).parent / "assets"
KINDS = ("prompts", "demonstrations", "comparisons")
SPLITS = ("train", "heldout")
N_HELDOUT = 400
"""The most held-out prompts, demonstrations or comparisons there are."""
QUALITY: Mapping[str, tuple[float, float]] = {"shop": (0.4, 0.95), "sort": (0.4, 0.7), "safe": (0.5, 0.95)}
"""Range of quality of the demonstrations' authors: better than the corpus's, and not yet good."""


def dice(task: str, kind: str, split: str, seed: int) -> random.Random:
    """The randomness of one list of data; a list that does not exist is an error."""
    if kind not in KINDS:
        raise DataError(f"The task {task!r} has no data of the kind {kind!r}. Known: {', '.join(KINDS)}.")
    if split not in SPLITS:
        raise DataError(f"The task {task!r} has no split {split!r}. Known: {', '.join(SPLITS)}.")
    return random.Random(f"{task} {kind} {split} {seed}")


def size(n_train: int, split: str) -> int:
    """How much of a split is wanted."""
    return n_train if split == "train" else N_HELDOUT


def ask(text: str, completions: tuple[str, ...] = (), labels: tuple[float, ...] = ()) -> Prompt:
    """A conversation of one question, with or without replies."""
    return Prompt(({"role": "user", "content": text},), completions, labels)


def prompts(task: str, split: str, n: int, rng: random.Random) -> list[Prompt]:
    """At most `n` different prompts of a split, in random order."""
    every = WORLDS[task].prompts(split)
    return [ask(text) for text in rng.sample(every, min(n, len(every)))]


def demonstrations(task: str, split: str, n: int, rng: random.Random) -> list[Prompt]:
    """`n` replies of the better writers."""
    world = WORLDS[task]
    texts = rng.choices(world.prompts(split), k=n)
    return [ask(text, (world.write(text, rng.uniform(*QUALITY[task]), rng),), (1.0,)) for text in texts]


def verdict(margin: float, noise: float, rng: random.Random) -> tuple[float, float]:
    """A rater's labels for a pair whose first reply is better by `margin`.

    The first wins with probability σ(margin / noise) (Bradley and Terry 1952); without noise the better one wins.
    """
    chance = 0.5 * (1 + math.tanh(margin / (2 * max(noise, 1e-9))))  # σ, without overflow
    return (1.0, 0.0) if rng.random() < chance else (0.0, 1.0)


def read_pairs(path: Path) -> list[tuple[str, str, str]]:
    """Rows {"prompt", "a", "b"} of a gzipped JSONL file: two samples of one policy for a prompt, not yet compared."""
    if not path.exists():
        raise DataError(f"The pairs to compare are not at {path}. Make them: python -m alignzoo_tiny.make")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["prompt"], row["a"], row["b"]) for row in rows]
