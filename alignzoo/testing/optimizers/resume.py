"""A run that was stopped and resumed is the run that was not stopped."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from alignzoo import runner
from alignzoo.collate import WeightedReward
from alignzoo.evaluate import Heldout
from alignzoo.interfaces import Optimizer, Policy
from alignzoo.journal import Journal
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.stage import Run
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.world import ToyPolicy, toy_policy
from alignzoo.types import Group, Prompt, Score

STEPS, STOPPED = 4, 2


@dataclass(frozen=True)
class ToySampler:
    """The policy writes; the columns that an optimizer reads are made up."""

    n: int = 3
    columns: tuple[str, ...] = ()
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seed: int) -> list[Group]:
        groups = policy.generate(prompts, self.n, seed=seed)
        return [replace(group, extra={name: (0.5,) * self.n for name in self.columns}) for group in groups]


@dataclass(frozen=True)
class ToyReward:
    """Likes small tokens."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(sum(t < 7 for t in c.tokens))) for c in group.completions) for group in groups]


def resume(optimizer: Optimizer, given: Given) -> None:
    """Stopped after two of four steps and resumed in fresh objects, a run writes the same to the byte."""
    cause = "state outside of the fields (a global, a cache), or a field that next() changes and JSON cannot hold"
    attempt = Attempt(7, f"{STEPS} steps, stopped after {STOPPED}", cause)
    known = pickle.dumps(optimizer)
    with tempfile.TemporaryDirectory() as folder, attempt.leaves_randomness():
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        with attempt.runs("a run of four steps"):
            expected = _run(pickle.loads(known), whole, given)
        with contextlib.suppress(runner.Interrupted):
            _run(pickle.loads(known), broken, given, stop=STOPPED)
        with attempt.runs("a resumed run"):
            found = _run(pickle.loads(known), broken, given, resume=True)
        for name, tensor in expected.weights.items():
            attempt.require(
                torch.equal(tensor, found.weights[name]), f"the same weights {name} at the end", "other ones"
            )
        lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (whole, broken)]
    for undisturbed, resumed in zip(*lines, strict=True):
        attempt.require(undisturbed == resumed, f"the metrics {undisturbed[:160]}", resumed[:160])


def _run(optimizer: Optimizer, out: Path, given: Given, *, resume: bool = False, stop: int = 0) -> ToyPolicy:
    """Four steps of the runner itself."""
    out.mkdir(exist_ok=True)
    policy = toy_policy()
    done = _Counter()
    stage = Run(
        name="toy",
        prompts=[Prompt(f"prompt {i}") for i in range(6)],
        heldout=Heldout(Evaluation(prompts=0), (), (), (), None),
        policy=policy,
        sampler=ToySampler(columns=tuple(given.columns)),
        rewards=(WeightedReward("toy", ToyReward()),),
        optimizer=optimizer,
        schedule=Schedule(steps=STEPS, prompts=4, minibatch=2, lr=0.01, save_every=0, samples_every=0),
        seed=0,
        journal=Journal(out, "toy"),
        checkpoints=out / "checkpoints",
        observe=done,
        interrupted=done.reaches(stop),
    )
    runner.run(stage, resume=resume)
    return policy


class _Counter:
    """Counts steps."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, report: object) -> tuple[()]:
        self.steps += 1
        return ()

    def reaches(self, stop: int) -> Callable[[], bool]:
        return lambda: bool(stop) and self.steps >= stop
