"""Plugin `random`: a reward that says nothing, the negative control of every comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import alignzoo
from alignzoo import Group, Policy, Score


@dataclass(frozen=True)
class Random:
    """A number that is drawn anew for every text, from the standard normal distribution; it depends on nothing else.

    The same prompt and completion always get the same number, so that a run repeats exactly, and a policy that learns
    from it learns nothing but what its own updates do to it.
    """

    seed: int = 0
    """Another seed draws other numbers."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(self._draw(str(g.prompt.messages), c.text)) for c in g.completions) for g in groups]

    def _draw(self, prompt: str, text: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}\0{prompt}\0{text}".encode(), digest_size=8).digest()
        return NormalDist().inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**64)


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("random", Random)
