"""Pictures of costs, and of all tasks together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alignzoo.compare.headings import PHASES
from alignzoo.compare.report.drawing import GRID, PAPER, STAND_IN, Looks, Picture, slug
from alignzoo.compare.report.forest import shortened
from alignzoo.compare.results import Results

Timings = Mapping[str, Mapping[str, float]]

COLOURS = (0, 4, 2, 3)
"""The numbers of the phases' colours, of which no two that touch are alike in light or dark."""

WIDTH, REST, LETTER = 4.5, 0.5, 0.075
"""Inches of the picture, of what stands beside bars and labels, and of a letter: where there is room in a segment its
seconds are written."""


def profiles(results: Results, looks: Looks) -> Picture | None:
    """Performance profiles: the share of runs above each score, all tasks together."""
    if not results.profiles:
        return None

    def draw(axes: Any) -> None:
        for each in results.profiles:
            look = looks.of[each.algorithm]
            if results.compared(each.algorithm).role == "algorithm":
                band = {"color": look.colour, "alpha": 0.13, "lw": 0, "step": "post", "gid": f"of-{look.number}"}
                axes.fill_between(each.thresholds, each.low, each.high, **band)
            every = max(1, len(each.thresholds) // 6)
            axes.plot(each.thresholds, each.shares, drawstyle="steps-post", **look.line(markevery=every))
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("score τ: 0 is the start, 1 the best of its task")
        axes.set_ylabel("share of runs above τ")

    says = "The share of each algorithm's runs, over all tasks, whose score is above τ; 95 % bands of those that train."
    shown = [each.algorithm for each in results.profiles]
    return Picture("profiles", "How many runs score above τ, over all tasks", says, draw, shown)


def seconds(results: Results, task: str, timings: Timings) -> Picture | None:
    """Where the seconds of training went."""
    labels = [each.label for each in results.algorithms if each.role in ("algorithm", "random")]
    spent = {label: _phases(results, task, label, timings) for label in labels}
    spent = {label: phases for label, phases in spent.items() if sum(phases.values())}
    if not spent:
        return None
    longest = max(sum(phases.values()) for phases in spent.values())
    inches = WIDTH - REST - LETTER * max(len(shortened(label)) for label in spent)

    def draw(axes: Any) -> None:
        names = list(reversed(spent))
        left = np.zeros(len(names))
        for number, phase in enumerate(PHASES):
            widths = np.array([spent[name].get(phase, 0.0) for name in names])
            bars = {"color": STAND_IN.format(COLOURS[number]), "edgecolor": GRID, "lw": 0.4}
            axes.barh(names, widths, left=left, height=0.66, label=PHASES[phase], **bars)
            for row, width in enumerate(widths):
                told = f"{width:.3g}"
                if width * inches > LETTER * len(told) * longest:
                    place = left[row] + width / 2
                    axes.text(place, row, told, color=PAPER, fontsize=7.5, ha="center", va="center")
            left += widths
        axes.figure.legend(ncols=4, fontsize=8, frameon=False, loc="outside upper center", handlelength=1.2)
        axes.set_yticks(range(len(names)), [shortened(name) for name in names])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds of training, mean over seeds")

    says = f"Seconds of training on {task} by phase: sampling, scoring, the passes that fill columns, and updates."
    totals = {phase: sum(phases.get(phase, 0.0) for phases in spent.values()) for phase in PHASES}
    most = max(totals, key=lambda phase: totals[phase])
    title = f"{100 * totals[most] / sum(totals.values()):.0f} % of the seconds went to {PHASES[most]}"
    return Picture(slug(task, "seconds"), title, says, draw, (), (WIDTH, 1.3 + 0.34 * len(spent)))


def _phases(results: Results, task: str, label: str, timings: Timings) -> dict[str, float]:
    cells = [cell for cell in results.cells if (cell.task, cell.algorithm) == (task, label) and cell.has_figures]
    found = [timings.get(cell.id, {}) for cell in cells]
    return {phase: sum(each.get(f"seconds/{phase}", 0.0) for each in found) / max(1, len(found)) for phase in PHASES}
