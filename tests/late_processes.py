"""What tests/several_processes.py lets several processes generate ahead of the steps that train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo import AlignzooError, Prompt, Score, processes
from alignzoo.evaluation.heldout import Heldout
from alignzoo.interfaces import Policy
from alignzoo.rewards import WeightedReward
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.testing.optimizers.resume import ToySampler
from alignzoo.testing.stopping import ToyReward
from alignzoo.testing.world import ToyPolicy
from alignzoo.training import loop
from alignzoo.training.journal import Journal
from alignzoo.training.stage import Run
from alignzoo.types import Group
from alignzoo_policy_gradient.grpo import GRPO

STEPS = 5
SCHEDULE: dict[str, Any] = {"steps": STEPS, "prompts": 4, "lr": 0.02, "samples_every": 1, "ahead": 2}


@dataclass(frozen=True)
class Uneven:
    """`ToyReward`, which the last process takes longer for; in process `fails` the third question ends in an error."""

    fails: int = -1
    asked: list[int] = field(default_factory=list)

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        self.asked.append(len(groups))
        time.sleep(0.005 * processes.index())
        if processes.index() == self.fails and len(self.asked) == 3:
            raise ValueError("the judge is out of order")
        return ToyReward().score(groups, policy)

    def costs(self) -> dict[str, float]:
        return {"judge/requests": float(sum(self.asked))}


def late(folder: Path) -> None:
    """A whole run; and one of which the third step cannot be scored in the last process, so that none trains on it."""
    processes.join()
    _run(folder / "late", Uneven())
    told = ""
    try:
        _run(folder / "failed", Uneven(processes.count() - 1))
    except AlignzooError as error:
        told = f"{type(error).__name__}: {error}"
    (folder / f"failed-{processes.index()}.txt").write_text(told)


def _run(out: Path, reward: Uneven) -> None:
    out.mkdir(exist_ok=True)
    stage = Run(
        name="toy",
        prompts=[Prompt(f"prompt {i}") for i in range(6)],
        heldout=Heldout(Evaluation(prompts=0), (), (), (), None),
        policy=ToyPolicy(),
        sampler=ToySampler(),
        rewards=(WeightedReward("toy", reward),),
        optimizer=GRPO(kl=0.05),
        schedule=Schedule(**SCHEDULE, save_every=2),
        seed=0,
        journal=Journal(out, "toy"),
        checkpoints=out / "checkpoints",
    )
    loop.run(stage)
