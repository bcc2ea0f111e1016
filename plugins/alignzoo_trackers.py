"""Sends a run's metrics to accelerate's trackers: tensorboard, wandb, trackio, mlflow and others, by name.

What a tracker writes into a folder goes to the run's own, under trackers/STAGE.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import alignzoo
from alignzoo import StepReport
from alignzoo.training.journal import Journal

PACKAGES = {"comet_ml": "comet-ml"}
"""Where the package is not called as the tracker is."""

_open: list[Any] = []
"""The trackers of the stage that is running."""

_journal: list[Journal] = []
"""Its journal, which has its evaluations."""

_sent = [0]
"""How many of these have been sent."""


@alignzoo.hookimpl
def alignzoo_trackers() -> dict[str, str]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    names = {str(name): PACKAGES.get(str(name), str(name)) for name in LOGGER_TYPE_TO_CLASS}
    installed = set(map(str, get_available_trackers()))
    return {name: "" if name in installed else f"pip install {package}" for name, package in names.items()}


@alignzoo.hookimpl
def alignzoo_run_start(run: Any) -> None:
    _close()
    if not run.trackers:
        return
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers ask it which process is the main one
    folder = run.out / "trackers"
    folder.mkdir(parents=True, exist_ok=True)
    for name in run.trackers:
        cls = LOGGER_TYPE_TO_CLASS[name]
        if cls.requires_logging_directory:
            tracker = cls(run.name, logging_dir=str(folder))
        else:
            tracker = cls(f"{run.out.name}-{run.name}")
        tracker.start()
        tracker.store_init_configuration(flat(run.recipe))
        _open.append(tracker)
    _journal[:], _sent[0] = [Journal(run.out, run.name)], 0


@alignzoo.hookimpl
def alignzoo_after_step(report: StepReport) -> None:
    if _open:
        _send_evaluations()
    for tracker in _open:
        tracker.log({name: value for name, value in report.metrics.items() if math.isfinite(value)}, step=report.step)


@alignzoo.hookimpl
def alignzoo_run_end(run: Any, result: Any) -> None:
    if _open:
        _send_evaluations()
    _close()


def _send_evaluations() -> None:
    """The held-out figures of evaluations that have not been sent yet, each as `evaluation/NAME` at its step."""
    lines = _journal[0].read("evaluations")
    for line in lines[_sent[0] :]:
        for when in ("before", "during", "after"):
            figures = {
                f"evaluation/{name}": value for name, value in line.get(when, {}).items() if math.isfinite(value)
            }
            for tracker in _open if figures else ():
                tracker.log(figures, step=line["step"])
    _sent[0] = len(lines)


def flat(table: Any, path: str = "") -> dict[str, Any]:
    """A recipe as one table with dotted keys, as trackers take it."""
    if isinstance(table, Mapping):
        below = [flat(each, f"{path}.{name}".lstrip(".")) for name, each in table.items()]
        return {key: leaf for each in below for key, leaf in each.items()}
    if isinstance(table, list | tuple):
        return {path: json.dumps(table)}
    return {path: "" if table is None else table}


def _close() -> None:
    while _open:
        _open.pop().finish()
