"""A run's curves as pictures: one row of panels per stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo.files import read_lines

PANELS = {
    "loss": "loss",
    "reward": "reward",
    "agreement": "agreement with …",
    "kl": "KL to the start (nats per sequence)",
    "length": "length (tokens)",
    "entropy": "entropy (nats per token)",
}
"""The panels and their titles; those that a run has nothing for are left out."""

LINES: dict[str, dict[str, str]] = {
    "loss": {"loss": "training"},
    "reward": {"reward/mean": "training"},
    "kl": {"kl": "training"},
    "length": {"length": "training"},
    "entropy": {"entropy": "training"},
}
"""What each panel draws of every step: the metric and its label."""

MARKS: dict[str, dict[str, str]] = {
    "loss": {"heldout/loss": "held-out"},
    "reward": {"reward": "held-out", "gold": "held-out, gold", "accuracy": "held-out, accuracy"},
    "agreement": {"accuracy": "the labels", "gold": "the gold order", "ceiling": "gold, by the labels (ceiling)"},
    "kl": {"kl": "held-out"},
    "length": {"length": "held-out"},
    "entropy": {"entropy": "held-out", "entropy_greedy": "held-out, greedy"},
}
"""What each panel marks of every evaluation."""

Point = tuple[float, ...]
"""Step and value, and at marks also its standard error."""

COLOURS = ("#4c78a8", "#e45756", "#54a24b", "#b279a2")


@dataclass(frozen=True)
class Curves:
    """What a stage has to draw."""

    stage: str
    metrics: Sequence[Mapping[str, Any]]
    evaluations: Sequence[tuple[int, Mapping[str, float]]]
    """The step, and the figures."""

    def panels(self) -> list[str]:
        """The panels that it has something for."""
        return [panel for panel in PANELS if self.lines(panel) or self.marks(panel)]

    def lines(self, panel: str) -> dict[str, list[Point]]:
        """Label -> points of every step."""
        if panel in ("reward", "length") and self.learns_offline:
            return {}
        found: dict[str, list[Point]] = {
            label: [(line["step"], line[metric]) for line in self.metrics if metric in line]
            for metric, label in LINES.get(panel, {}).items()
        }
        return {label: points for label, points in found.items() if points}

    def marks(self, panel: str) -> dict[str, list[Point]]:
        """Label -> points of every evaluation, with standard errors."""
        scorer = not any("length" in figures for _, figures in self.evaluations)
        if panel != "loss" and scorer != (panel == "agreement"):
            return {}
        found: dict[str, list[Point]] = {
            label: [(step, f[name], f.get(f"{name}_se", 0.0)) for step, f in self.evaluations if name in f]
            for name, label in MARKS.get(panel, {}).items()
        }
        return {label: points for label, points in found.items() if points}

    @property
    def learns_offline(self) -> bool:
        """Whether rewards and lengths of a step are only the data's own, which no training moves."""
        return not any(line.get("tokens/generated", 0) for line in self.metrics)


def curves(folder: Path) -> None:
    """Draw metrics.jsonl and evaluations.jsonl into curves.png and curves.svg."""
    stages = [each for each in _stages(folder) if each.panels()]
    if not stages:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(stage.panels()) for stage in stages)
    figure = Figure(figsize=(3.6 * columns, 2.9 * len(stages)), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(stages), columns, squeeze=False)
    for row, stage in zip(grid, stages, strict=True):
        panels = stage.panels()
        for axes, panel in zip(row, panels, strict=False):
            _draw(axes, stage, panel)
        for axes in row[len(panels) :]:
            axes.set_axis_off()
        row[0].set_ylabel(stage.stage, fontsize=12, fontweight="bold")
    whole(folder / "curves.png", figure.savefig)
    whole(folder / "curves.svg", figure.savefig)


def _draw(axes: Any, stage: Curves, panel: str) -> None:
    """One panel: thin lines for training, marks for evaluations."""
    lines, marks = stage.lines(panel), stage.marks(panel)
    for label, points in lines.items():
        many = len(points) > 1
        axes.plot(*zip(*points, strict=True), color="#9a9a9a", lw=1.1, marker="" if many else ".", label=label)
    for colour, (label, points) in zip(COLOURS, marks.items(), strict=False):
        steps, values, errors = zip(*points, strict=True)
        style = {"color": colour, "marker": "o", "ms": 4, "lw": 1.4, "ls": ":", "elinewidth": 1, "capsize": 2}
        axes.errorbar(steps, values, errors if any(errors) else None, label=label, **style)
    axes.set_title(PANELS[panel], fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) + len(marks) > 1 or panel == "agreement":
        axes.legend(fontsize=7, frameon=False)


def _stages(folder: Path) -> list[Curves]:
    metrics, evaluations = (read_lines(folder / f"{name}.jsonl") for name in ("metrics", "evaluations"))
    names = dict.fromkeys(line["stage"] for line in [*evaluations, *metrics])
    return [
        Curves(
            name,
            [line for line in metrics if line["stage"] == name],
            [
                (line["step"], line[when])
                for line in evaluations
                for when in ("before", "during", "after")
                if line["stage"] == name and when in line
            ],
        )
        for name in names
    ]


def whole(path: Path, write: Callable[..., None]) -> None:
    """Write a picture whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    write(partial, format=path.suffix[1:])
    partial.replace(path)
