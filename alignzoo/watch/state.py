"""What the page shows: a run's or a comparison's curves, samples and warnings, read as they are written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.errors import RunError
from alignzoo.files import read_json

POINTS = 300
"""Points of a curve at most: of longer ones every n-th, and the last."""

SAMPLES, WARNINGS = 12, 30
"""So many of the latest are shown."""

LONGEST = 4000
"""Letters of a sample's prompt or answer."""

FIRST = (
    "held-out gold",
    "held-out accuracy",
    "reward/mean",
    "gold",
    "accuracy",
    "reward",
    "loss",
    "kl",
    "entropy",
    "length",
    "grad_norm",
)
"""Figures that are drawn first, where they are."""

Line = dict[str, Any]


@dataclass
class Tail:
    """A file of JSON lines that grows: only what is new is read; an unfinished last line waits."""

    path: Path
    lines: list[Line] = field(default_factory=list)
    offset: int = 0

    def read(self) -> list[Line]:
        """All lines so far."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            self.lines, self.offset = [], 0
            return self.lines
        if size < self.offset:  # a run that was resumed has cut what it will write again
            self.lines, self.offset = [], 0
        if size > self.offset:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self.offset += len(whole)
            self.lines += [_plain(line) for line in whole.split(b"\n") if line.strip()]
        return self.lines


def _plain(line: bytes) -> Line:
    """A line as JSON for a browser, which knows no NaN; one that is no object, as of a disk that was full, is empty."""
    try:
        found = json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Watched:
    """A folder that is looked at again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.comparison = (folder / "cells").is_dir()
        if not self.comparison and not (folder / "manifest.json").exists():
            raise RunError(
                f"{folder} is neither a run nor a comparison: it holds no manifest.json and no cells/. Give the folder "
                "that `alignzoo run` or `alignzoo compare` writes to, which they name with --out"
            )
        self._tails: dict[Path, Tail] = {}

    def state(self) -> dict[str, Any]:
        """Everything that the page shows."""
        series = list(self._series())
        names = dict.fromkeys(name for each in series for name in each["curves"])
        found: dict[str, Any] = _for_browsers(
            {
                "name": self.folder.name,
                "kind": "comparison" if self.comparison else "run",
                "progress": self._progress(),
                "cells": list(self._cells()),
                "series": series,
                "metrics": sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else 99, name)),
                "samples": self._latest("samples.jsonl", SAMPLES),
                "warnings": self._latest("warnings.jsonl", WARNINGS),
                "report": (self.folder / "report.html").exists(),
            }
        )
        return found

    # --- where things lie ---------------------------------------------------------------------------------------------

    def _runs(self) -> Iterator[tuple[str, str, Path]]:
        """Label, seed and folder of every run."""
        if not self.comparison:
            yield "", "", self.folder
            return
        for plan, about in self._plans():
            if about["recipe"] and about["role"] != "trial":
                yield about["algorithm"] + _task(about, self.folder), str(about["seed"]), plan.parent / "run"

    def _plans(self) -> Iterator[tuple[Path, Line]]:
        """The plan.json of every cell; one that is damaged is left out: `alignzoo compare` says what to do about it."""
        for path in sorted((self.folder / "cells").glob("*/*/*/plan.json")):
            about = _read(path)
            if isinstance(about, dict) and {"id", "recipe", "role", "algorithm", "seed", "task"} <= about.keys():
                yield path, about

    def _lines(self, path: Path) -> list[Line]:
        return self._tails.setdefault(path, Tail(path)).read()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _progress(self) -> dict[str, Any]:
        if self.comparison:
            path = self.folder / "progress.json"
            found = _read(path) if path.exists() else {}
            return found if isinstance(found, dict) else {}
        steps = self._lines(self.folder / "metrics.jsonl")
        path = self.folder / "result.json"
        return {"steps": len(steps), "ended": path.exists(), "age": self._age()}

    def _age(self) -> float | None:
        """Seconds since the run last wrote a step."""
        path = self.folder / "metrics.jsonl"
        return max(0.0, time.time() - path.stat().st_mtime) if path.exists() else None

    def _cells(self) -> Iterator[dict[str, Any]]:
        for plan, about in self._plans() if self.comparison else ():
            done = plan.with_name("cell.json")
            begun = (plan.parent / "run").exists() or (plan.parent / "log.txt").exists()
            result = _read(done) if done.exists() else {"status": "running" if begun else "waiting"}
            if not isinstance(result, dict):
                result = {
                    "status": "failed",
                    "error": f"{done} is damaged: delete this cell's folder, compare again",
                }
            told = {name: result.get(name, "") for name in ("status", "error")}
            yield {"id": about["id"], "algorithm": about["algorithm"], "seed": about["seed"], **told}

    def _series(self) -> Iterator[dict[str, Any]]:
        """The curves of every run, over its steps; stages follow each other."""
        for label, seed, run in self._runs():
            curves: dict[str, list[tuple[float, Any]]] = {}
            places: dict[tuple[Any, Any], int] = {}
            for number, line in enumerate(self._lines(run / "metrics.jsonl"), 1):
                places[line.get("stage"), line.get("step")] = number
                for name, value in line.items():
                    if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                        curves.setdefault(name, []).append((number, value))
            for line in self._lines(run / "evaluations.jsonl"):
                figures = line.get("before") or line.get("during") or line.get("after") or {}
                at = places.get((line.get("stage"), line.get("step")), 0)
                for name in ("gold", "accuracy", "reward", "kl"):
                    if name in figures:
                        curves.setdefault(f"held-out {name}", []).append((at, figures[name]))
            if curves:
                yield {"label": label, "seed": seed, "curves": {name: thin(each) for name, each in curves.items()}}

    def _latest(self, name: str, most: int) -> list[dict[str, Any]]:
        """The newest lines of every run's file, the newest run first."""
        found: list[dict[str, Any]] = []
        for label, seed, run in sorted(self._runs(), key=lambda each: -_written(each[2] / name)):
            for line in reversed(self._lines(run / name)):
                if len(found) == most:
                    return found
                found.append({"label": label, "seed": seed, **_shown(line)})
        return found


def _read(path: Path) -> Any:
    """The value of a JSON file; None where it is damaged, for the page shows what there is."""
    try:
        return read_json(path)
    except RunError:
        return None


def thin(points: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    """Every n-th point, and the last."""
    every = math.ceil(len(points) / POINTS)
    return points if every < 2 else [*points[:-1:every], points[-1]]


def _written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _task(about: Line, folder: Path) -> str:
    """The task, where there are several."""
    several = sum(path.is_dir() for path in (folder / "cells").iterdir()) > 1
    return f" on {about['task']}" if several else ""


def _shown(line: Line) -> dict[str, Any]:
    """What is shown of a sample or a warning."""
    kept = ("stage", "step", "when", "kind", "message", "completion", "reward", "gold", "finished")
    found = {name: line[name] for name in kept if name in line}
    if "prompt" in line:
        found["prompt"] = spoken(line["prompt"])
    return {name: _cut(value) if isinstance(value, str) else value for name, value in found.items()}


def spoken(messages: Any) -> str:
    """A prompt as one text."""
    if isinstance(messages, str):
        return messages
    turns = [each for each in messages if isinstance(each, dict)]
    return "\n".join(f"{each.get('role', '')}: {each.get('content', '')}" for each in turns)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST} more letters)"


def _for_browsers(value: Any) -> Any:
    """Without numbers that JSON does not know: they are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _for_browsers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_browsers(each) for each in value]
    return value
