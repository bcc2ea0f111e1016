"""Trackers by name: what they are sent, and when. That tensorboard writes its events, tests/cli/test_run.py sees."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import alignzoo_trackers
from alignzoo import RunError, StepReport
from alignzoo.registry import Registry
from alignzoo.runs.api import RunInfo, StageResult, check_trackers
from alignzoo.training.journal import Journal


class Tracker:
    """Remembers what it is told."""

    requires_logging_directory = False
    all: list[Tracker]

    def __init__(self, run_name: str) -> None:
        self.told: list[Any] = [run_name]
        Tracker.all.append(self)

    def start(self) -> None:
        self.told.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finish")


def test_a_stage_is_told_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "fake", Tracker)
    Tracker.all = []
    run = RunInfo("rl", tmp_path / "out", 2, {"optimizer": {"name": "ppo", "betas": [0.9, 0.95]}}, ("fake",))
    result = StageResult("rl", "ppo", {"gold": 1.0}, {"gold": 2.0}, {}, 2, "", tmp_path)
    journal = Journal(run.out, "rl")
    run.out.mkdir()
    alignzoo_trackers.alignzoo_run_start(run)
    journal.write("evaluations", 0, {"before": {"gold": 1.0, "heldout/loss": 0.7}, "best_of": {"gold": 5.0}})
    alignzoo_trackers.alignzoo_after_step(StepReport(1, 2, {"loss": 0.5, "kl": math.nan}))
    journal.write("evaluations", 1, {"during": {"heldout/loss": 0.6}})
    alignzoo_trackers.alignzoo_after_step(StepReport(2, 2, {"loss": 0.4}))
    journal.write("evaluations", 2, {"after": {"gold": 2.0, "heldout/loss": math.inf}})
    alignzoo_trackers.alignzoo_run_end(run, result)
    alignzoo_trackers.alignzoo_after_step(StepReport(2, 2, {"loss": 0.1}))  # of another run: nobody listens
    assert [tracker.told for tracker in Tracker.all] == [
        [
            "out-rl",
            "start",
            {"optimizer.name": "ppo", "optimizer.betas": "[0.9, 0.95]"},
            (0, {"evaluation/gold": 1.0, "evaluation/heldout/loss": 0.7}),
            (1, {"loss": 0.5}),
            (1, {"evaluation/heldout/loss": 0.6}),
            (2, {"loss": 0.4}),
            (2, {"evaluation/gold": 2.0}),
            "finish",
        ]
    ]


def test_without_trackers_nothing_is_made(tmp_path: Path) -> None:
    alignzoo_trackers.alignzoo_run_start(RunInfo("rl", tmp_path / "out", 2, {}))
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said_with_its_cure() -> None:
    registry = Registry()
    registry.load_all()
    served = alignzoo_trackers.alignzoo_trackers()
    assert served["tensorboard"] == ""
    missing = [name for name, cure in served.items() if cure]
    for name in missing[:1]:
        with pytest.raises(RunError, match=f"{name}.*pip install"):
            check_trackers([name], registry)
    with pytest.raises(RunError, match="Did you mean 'wandb'"):
        check_trackers(["wanb"], registry)
