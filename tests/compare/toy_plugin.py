"""A loose plugin for the tests of `compare`: a task and a policy of milliseconds, and optimizers good and bad."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

import alignzoo
from alignzoo import Batch, Completion, Forward, Group, Policy, Prompt, Question, Score, StepReport, Terms, Verdict
from alignzoo import functional as fn
from alignzoo.testing.world import ToyPolicy


@dataclass(frozen=True)
class Toy:
    """A policy of a few hundred weights."""

    model: str = "start"
    """"start", or a folder that it was saved to."""

    def load(self, needs: frozenset[str]) -> Policy:
        policy = Saved(seed=3)
        if self.model != "start":
            policy.restore(torch.load(Path(self.model) / "weights.pt"))
        return policy


class Saved(ToyPolicy):
    def save(self, path: Path) -> None:
        torch.save(self.state(), path / "weights.pt")


@dataclass(frozen=True)
class Numbers:
    """Write many fives."""

    policy: ClassVar[str] = "start"
    base: ClassVar[str] = "start"
    reward: ClassVar[Sequence[dict[str, Any]]] = ({"name": "fives"},)
    hard: float = 0.0
    """Taken off the gold score."""

    def data(self, kind: str, split: str) -> list[Prompt]:
        return [Prompt(f"{split} {number}") for number in range(40)]

    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return completion.text.split().count("5") - self.hard


@dataclass(frozen=True)
class Fives:
    seconds: float = 0.0

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        return [tuple(Score(float(c.text.split().count("5"))) for c in group.completions) for group in groups]


@dataclass(frozen=True)
class Umpire:
    """A judge that sees what gold sees."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        counts = [[answer.split().count("5") for answer in question.answers] for question in questions]
        return [Verdict("value", 0.5 + 0.5 * ((a > b) - (a < b))) for a, b in counts]


@dataclass(frozen=True)
class Climb:
    """REINFORCE with the group's mean as baseline."""

    rate: float = 1.0
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})
    online: ClassVar[bool] = True
    search: ClassVar[dict[str, tuple[float, float]]] = {"rate": (0.1, 10.0)}

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=self.rate * fn.group_advantages(batch, scale="none"))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-(batch.advantages[:, None] * out.logprobs).sum(1))


@dataclass(frozen=True)
class Spends(Climb):
    """One step of it costs more than any test's budget."""

    epochs: int = 40


@dataclass(frozen=True)
class Crashes(Climb):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        raise IndexError("no such row")


@dataclass(frozen=True)
class Dies(Climb):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().loss(batch, out)


@dataclass(frozen=True)
class Explodes(Climb):
    step: int = 0

    def next(self, report: StepReport) -> Explodes:
        return replace(self, step=self.step + 1)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(super().loss(batch, out).loss * (float("nan") if self.step > 1 else 1.0))


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.policy("toy", Toy)
    zoo.task("numbers", Numbers)
    zoo.reward("fives", Fives)
    zoo.judge("umpire", Umpire)
    zoo.optimizer("climb", Climb)
    zoo.optimizer("spends", Spends)
    zoo.optimizer("crashes", Crashes)
    zoo.optimizer("dies", Dies)
    zoo.optimizer("explodes", Explodes)
