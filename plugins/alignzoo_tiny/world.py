"""The embedded world: its three tasks, and the text a model of it is pretrained on.

A task is a module; `TaskWorld` says what it offers. All of it is pure, and works from text alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from alignzoo_tiny import safe, shop, sort

if TYPE_CHECKING:  # it would import torch
    from alignzoo import Prompt


class TaskWorld(Protocol):
    """What a task's module offers."""

    def prompts(self, split: str) -> list[str]:
        """Every prompt of a split, "train" or "heldout"."""
        ...

    def write(self, prompt: str, quality: float, rng: random.Random) -> str:
        """A reply of a writer of this quality, 0 to 1."""
        ...

    def gold(self, prompt: str, reply: str, finished: bool = True) -> float:
        """How good a reply truly is."""
        ...

    def rates(self, prompt: str, reply: str) -> dict[str, float]:
        """What happened in a reply, beside its gold score: 1 or 0 by name, and a name only where it applies."""
        ...


WORLDS: Mapping[str, TaskWorld] = {"shop": shop, "sort": sort, "safe": safe}
SHARES: Mapping[str, float] = {"shop": 0.4, "sort": 0.35, "safe": 0.25}
"""How much of every mixed text is of each task."""
SORT_RIGHT = 0.35
"""How often the writers of the corpus sort rightly."""


@dataclass(frozen=True)
class Dialogue:
    """A prompt and one reply."""

    prompt: str
    reply: str


def corpus(n: int, rng: random.Random) -> list[Dialogue]:
    """`n` dialogues of all tasks by good and bad writers alike: what a model is pretrained on.

    Held-out prompts are not in it.
    """
    known = {name: world.prompts("train") for name, world in WORLDS.items()}
    names = rng.choices(list(SHARES), weights=list(SHARES.values()), k=n)
    return [_dialogue(name, rng.choice(known[name]), rng) for name in names]


def _dialogue(name: str, prompt: str, rng: random.Random) -> Dialogue:
    quality = SORT_RIGHT if name == "sort" else rng.random()
    return Dialogue(prompt, WORLDS[name].write(prompt, quality, rng))


def question(prompt: Prompt) -> str:
    """What was asked: the last turn of a conversation, or plain text as it stands."""
    return prompt.messages if isinstance(prompt.messages, str) else prompt.messages[-1]["content"]
