"""Reward `plain`: how easy an answer is to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import alignzoo
from alignzoo import Group, Policy, Score
from alignzoo.registry import Registrar
from annotated_types import Gt
from reading_ease import ease

api = ">=0.2,<0.3"


@dataclass(frozen=True)
class Plain:
    """Flesch's reading ease / scale, at most 1 and at least 0. An answer without words is not scored."""

    scale: Annotated[float, Gt(0)] = 100.0
    """The ease that earns 1."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(self._score(completion.text) for completion in group.completions) for group in groups]

    def _score(self, text: str) -> Score:
        try:
            found = ease(text)
        except ValueError as why:
            return Score(None, note=str(why))
        return Score(min(1.0, max(0.0, found / self.scale)), parts={"ease": found})


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.reward("plain", Plain)
