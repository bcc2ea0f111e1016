"""A run that was stopped and resumed is the run that was not stopped: the runner itself, on the toy policy."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo import columns
from alignzoo.evaluation.heldout import Heldout
from alignzoo.interfaces import Optimizer, Policy, Sampler
from alignzoo.rewards import WeightedReward
from alignzoo.roles import specs_of
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.testing.laws import Attempt
from alignzoo.testing.world import ToyPolicy, toy_policy
from alignzoo.training import loop
from alignzoo.training.journal import Journal
from alignzoo.training.stage import Run
from alignzoo.types import Group, Prompt, Score

STEPS, STOPPED = 4, 2


@dataclass(frozen=True)
class ToyReward:
    """Likes small tokens."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(sum(t < 7 for t in c.tokens))) for c in group.completions) for group in groups]


def resumes(cause: str, optimizer: Optimizer, sampler: Sampler, prompts: Sequence[Prompt]) -> None:
    """Stopped after two of four steps and resumed in fresh objects, a run writes the same to the byte."""
    attempt = Attempt(7, f"{STEPS} steps, stopped after {STOPPED}", cause)
    known = pickle.dumps((optimizer, sampler))

    def run(out: Path, *, resume: bool = False, stop: int = 0) -> ToyPolicy:
        fresh = pickle.loads(known)
        return _run(fresh[0], fresh[1], prompts, out, resume=resume, stop=stop)

    with tempfile.TemporaryDirectory() as folder, attempt.leaves_randomness():
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        with attempt.runs("a run of four steps"):
            expected = run(whole)
        with attempt.runs("a run that is stopped"), contextlib.suppress(loop.Interrupted):
            run(broken, stop=STOPPED)
        with attempt.runs("a resumed run"):
            found = run(broken, resume=True)
        attempt.unchanged("the weights {} at the end", expected.state(), found.state())
        lines = [(path / "metrics.jsonl").read_text("utf-8").split("\n") for path in (whole, broken)]
    for undisturbed, resumed in zip(*lines, strict=True):
        attempt.require(undisturbed == resumed, f"the metrics {undisturbed[:160]}", resumed[:160])


def _run(
    optimizer: Optimizer, sampler: Sampler, prompts: Sequence[Prompt], out: Path, *, resume: bool, stop: int
) -> ToyPolicy:
    """Four steps of the runner itself."""
    out.mkdir(exist_ok=True)
    policy = toy_policy(roles=columns.roles(optimizer.needs) | set(specs_of(optimizer)))
    done = _Counter()
    stage = Run(
        name="toy",
        prompts=prompts,
        heldout=Heldout(Evaluation(prompts=0), (), (), (), None),
        policy=policy,
        sampler=sampler,
        rewards=(WeightedReward("toy", ToyReward()),),
        optimizer=optimizer,
        schedule=Schedule(steps=STEPS, prompts=4, minibatch=2, lr=0.01, save_every=0, samples_every=0),
        seed=0,
        journal=Journal(out, "toy"),
        checkpoints=out / "checkpoints",
        observe=done,
        interrupted=done.reaches(stop),
    )
    loop.run(stage, resume=resume)
    return policy


class _Counter:
    """Counts steps."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, report: Any) -> tuple[()]:
        self.steps += 1
        return ()

    def reaches(self, stop: int) -> Callable[[], bool]:
        return lambda: bool(stop) and self.steps >= stop
