"""A run of the toy world, by the runner itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from alignzoo import Alert, Prompt
from alignzoo.evaluation.heldout import Heldout
from alignzoo.interfaces import Optimizer, Sampler
from alignzoo.rewards import WeightedReward
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.testing.optimizers.resume import ToySampler
from alignzoo.testing.stopping import ToyReward
from alignzoo.testing.world import ToyPolicy
from alignzoo.training import loop
from alignzoo.training.journal import Journal
from alignzoo.training.stage import Run
from rounding import EXACT


def train(policy: ToyPolicy, optimizer: Optimizer, out: Path, **changes: Any) -> dict[str, Any]:
    """Three steps of four groups of three; the lines of metrics.jsonl and warnings.jsonl, and what was told."""
    out.mkdir()
    told: list[tuple[int, Alert]] = []
    observe: Callable[..., Sequence[Alert]] = changes.pop("observe", lambda report: ())
    sampler: Sampler = changes.pop("sampler", ToySampler())
    reward = changes.pop("reward", ToyReward())
    settings: dict[str, Any] = {"steps": 3, "prompts": 4, "lr": 0.01, "save_every": 0, "samples_every": 1}
    stage = Run(
        name="toy",
        prompts=[Prompt(f"prompt {i}") for i in range(6)],
        heldout=Heldout(Evaluation(prompts=0), (), (), (), None),
        policy=policy,
        sampler=sampler,
        rewards=(WeightedReward("toy", reward),),
        optimizer=optimizer,
        schedule=Schedule(**settings | changes),
        seed=0,
        journal=Journal(out, "toy"),
        checkpoints=out / "checkpoints",
        observe=observe,
        warn=lambda stage, step, alert: told.append((step, alert)),
    )
    outcome = loop.run(stage)
    return {"metrics": lines(out / "metrics.jsonl"), "warnings": lines(out / "warnings.jsonl"), "told": told} | {
        "samples": lines(out / "samples.jsonl"),
        "outcome": outcome,
    }


def lines(file: Path) -> list[dict[str, Any]]:
    """A file's, without the stage's name."""
    written = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{name: value for name, value in line.items() if name != "stage"} for line in written]


def same(one: ToyPolicy, other: ToyPolicy) -> None:
    """Their weights are equal, in float64."""
    for name, tensor in one.weights.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(other.weights[name], tensor, rtol=EXACT, atol=EXACT)
