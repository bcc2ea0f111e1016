"""The embedded world's three tasks: `shop` (preference), `sort` (verifiable) and `safe` (principles)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from alignzoo import Completion, Prompt
from alignzoo_tiny import data, safe, shop, sort
from alignzoo_tiny.data import ASSETS
from alignzoo_tiny.world import SHARES, question


class Embedded:
    """A task of the embedded world: all start from one model, before and after its demonstrations."""

    @property
    def policy(self) -> str:
        return str(ASSETS / "sft")

    @property
    def base(self) -> str:
        return str(ASSETS / "base")


@dataclass(frozen=True)
class Shop(Embedded):
    """Help desk. No reply is the right one: raters compare two, and a hidden gold score knows the truth.

    A rater prefers reply a to reply b with probability σ((u_a - u_b) / noise), where u = gold + length_bias · words
    (Bradley and Terry 1952).
    """

    best: ClassVar[float] = 4.5

    seed: int = 0
    """Which prompts and demonstrations are drawn, and how the raters' dice fall."""
    length_bias: float = 0.0
    """What each word adds to a reply's worth in a rater's eyes, in units of gold; 0.15 teaches policies to talk."""
    noise: Annotated[float, Ge(0)] = 1.0
    """How unsure the raters are, 0 or more: 1 is Bradley-Terry on gold itself, 0 never errs."""
    n_prompts: Annotated[int, Ge(1)] = 2000
    """Train prompts, at most."""
    n_demonstrations: Annotated[int, Ge(1)] = 1500
    """Train demonstrations."""
    n_pairs: Annotated[int, Ge(1)] = 3200
    """Train comparisons, at most."""

    @property
    def reward(self) -> Sequence[Mapping[str, Any]]:
        return ({"name": "model", "model": str(ASSETS / "reward")},)

    def data(self, kind: str, split: str) -> list[Prompt]:
        rng = data.dice("shop", kind, split, self.seed)
        if kind == "prompts":
            return data.prompts("shop", split, data.size(self.n_prompts, split), rng)
        if kind == "demonstrations":
            return data.demonstrations("shop", split, data.size(self.n_demonstrations, split), rng)
        pairs = [pair for pair in data.read_pairs(ASSETS / "pairs.jsonl.gz") if shop.understand(pair[0]).split == split]
        return [self._compare(*pair, rng) for pair in pairs[: data.size(self.n_pairs, split)]]

    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return shop.gold(question(prompt), completion.text, completion.finished)

    def rates(self, prompt: Prompt, completion: Completion) -> Mapping[str, float]:
        return shop.rates(question(prompt), completion.text)

    def _compare(self, prompt: str, a: str, b: str, rng: random.Random) -> Prompt:
        """A rater's verdict on two replies."""
        margin = shop.gold(prompt, a) - shop.gold(prompt, b)
        longer = len(a.split()) - len(b.split())
        return data.ask(prompt, (a, b), data.verdict(margin + self.length_bias * longer, self.noise, rng))


@dataclass(frozen=True)
class Sort(Embedded):
    """Letters in order. Verifiable: the reward is an exact match, and gold says the same."""

    best: ClassVar[float] = 1.0

    seed: int = 0
    """Which prompts, demonstrations and wrong answers are drawn."""
    n_prompts: Annotated[int, Ge(1)] = 4000
    """Train prompts, at most."""
    n_demonstrations: Annotated[int, Ge(1)] = 1500
    """Train demonstrations."""
    n_pairs: Annotated[int, Ge(1)] = 1600
    """Train comparisons, at most: the right answer and a habitual wrong one."""

    @property
    def reward(self) -> Sequence[Mapping[str, Any]]:
        return ({"name": "match", "answer": "answer", "mode": "exact"},)

    def data(self, kind: str, split: str) -> list[Prompt]:
        rng = data.dice("sort", kind, split, self.seed)
        if kind == "prompts":
            found = data.prompts("sort", split, data.size(self.n_prompts, split), rng)
        elif kind == "demonstrations":
            found = data.demonstrations("sort", split, data.size(self.n_demonstrations, split), rng)
        else:
            asked = data.prompts("sort", split, data.size(self.n_pairs, split), rng)
            found = [self._compare(question(prompt), rng) for prompt in asked]
        return [replace(prompt, info={"answer": sort.answer(question(prompt))}) for prompt in found]

    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return sort.gold(question(prompt), completion.text, completion.finished)

    def _compare(self, prompt: str, rng: random.Random) -> Prompt:
        """The right answer and a wrong one, in either order, labelled by the truth."""
        right = sort.answer(prompt)
        wrong = rng.choice([habit for habit in sort.habits(prompt) if habit != right])
        first, second = rng.sample((right, wrong), 2)
        return data.ask(prompt, (first, second), (sort.gold(prompt, first), sort.gold(prompt, second)))


@dataclass(frozen=True)
class Safe(Embedded):
    """Harmful requests, and harmless ones that look alike. Judged by principles, which are rules here."""

    seed: int = 0
    """Which prompts, demonstrations and comparisons are drawn."""
    noise: Annotated[float, Ge(0)] = 1.0
    """How unsure the raters are, 0 or more: 1 is Bradley-Terry on gold itself, 0 never errs."""
    n_prompts: Annotated[int, Ge(1)] = 2000
    """Train prompts, at most."""
    n_demonstrations: Annotated[int, Ge(1)] = 1500
    """Train demonstrations."""
    n_pairs: Annotated[int, Ge(1)] = 1600
    """Train comparisons of two writers' replies."""

    @property
    def reward(self) -> Sequence[Mapping[str, Any]]:
        return ({"name": "rules"},)

    def data(self, kind: str, split: str) -> list[Prompt]:
        rng = data.dice("safe", kind, split, self.seed)
        if kind == "prompts":
            return data.prompts("safe", split, data.size(self.n_prompts, split), rng)
        if kind == "demonstrations":
            return data.demonstrations("safe", split, data.size(self.n_demonstrations, split), rng)
        asked = rng.choices(safe.prompts(split), k=data.size(self.n_pairs, split))
        return [self._compare(prompt, rng) for prompt in asked]

    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return safe.gold(question(prompt), completion.text, completion.finished)

    def rates(self, prompt: Prompt, completion: Completion) -> Mapping[str, float]:
        return safe.rates(question(prompt), completion.text)

    def _compare(self, prompt: str, rng: random.Random) -> Prompt:
        """Two different replies by any writers, and a rater's verdict."""
        a = b = safe.write(prompt, rng.random(), rng)
        while a == b:
            b = safe.write(prompt, rng.random(), rng)
        return data.ask(prompt, (a, b), data.verdict(safe.gold(prompt, a) - safe.gold(prompt, b), self.noise, rng))


def mixed_demonstrations(seed: int = 0, n: int = 1500) -> list[Prompt]:
    """Demonstrations of all three tasks, for the one starting policy that they share."""
    n_shop, n_sort, n_safe = (round(SHARES[name] * n) for name in ("shop", "sort", "safe"))
    return [
        *Shop(seed, n_demonstrations=n_shop).data("demonstrations", "train"),
        *Sort(seed, n_demonstrations=n_sort).data("demonstrations", "train"),
        *Safe(seed, n_demonstrations=n_safe).data("demonstrations", "train"),
    ]
