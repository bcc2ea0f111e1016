"""The pictures of a comparison: learning curves, over-optimisation, differences, profiles, costs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignzoo.compare.frontier import Point, fit, pareto
from alignzoo.compare.headlines import oriented
from alignzoo.compare.report.drawing import GRID, INK, QUIET, Look, Looks, Picture
from alignzoo.compare.report.gather import Curve, Mark
from alignzoo.compare.results import CellResult, Results

Timings = Mapping[str, Mapping[str, float]]

AGAINST: dict[str, tuple[str, Callable[[Mark], float]]] = {
    "tokens": ("tokens, generated and trained", lambda mark: mark.tokens),
    "seconds": ("seconds of training", lambda mark: mark.seconds),
}
"""What learning is drawn against."""

PHASES = ("sample", "score", "fill", "update")


def slug(*parts: str) -> str:
    """A name of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


# --- learning ---------------------------------------------------------------------------------------------------------


def learning(results: Results, task: str, curves: Sequence[Curve], looks: Looks) -> list[Picture]:
    """What is gained of the compared figure, against tokens and against seconds."""
    metric = results.metric[task]
    mine = [curve for curve in curves if curve.cell.task == task and curve.gains(metric)]
    return [_learning(results, task, metric, mine, looks, unit) for unit in AGAINST] if mine else []


def _learning(results: Results, task: str, metric: str, curves: Sequence[Curve], looks: Looks, unit: str) -> Picture:
    label, spent = AGAINST[unit]
    shown = [each.label for each in results.algorithms if any(c.algorithm == each.label for c in curves)]
    chosen = [each.label for each in results.algorithms if each.role == "best-of"]

    def draw(axes: Any) -> None:
        for name in chosen:
            level = [final_gain(results, cell, metric) for cell in _cells(results, task, name, metric)]
            if level:
                look = looks.of[name]
                axes.axhline(np.mean(level), color=look.colour, ls=look.style, lw=1.2, gid=f"of-{look.number}")
        axes.axhline(0.0, color=QUIET, ls=":", lw=1)
        for name in shown:
            _band(axes, [c for c in curves if c.algorithm == name], metric, spent, looks.of[name])
        axes.set_xlabel(label)
        axes.set_ylabel(f"{metric}, gain over the start")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(_short)

    says = f"What is gained of {metric} on {task}, by {label}: the mean over seeds, and from the lowest to the highest"
    says += "; the dashed level is choosing without training" if chosen else ""
    says += _on_the_way(results)
    return Picture(slug(task, "learning", unit), f"Learning by {unit}", f"{says}.", draw, [*chosen, *shown])


def _on_the_way(results: Results) -> str:
    """How many prompts stand behind a curve, where that is not as many as behind the table."""
    evaluation = results.settings["evaluation"]
    few, all_ = evaluation.get("curve prompts", evaluation["prompts"]), evaluation["prompts"]
    return f"; on the way {few} held-out prompts are answered, in the table {all_}" if few != all_ else ""


def _band(axes: Any, curves: Sequence[Curve], metric: str, spent: Callable[[Mark], float], look: Look) -> None:
    """The mean of an algorithm's seeds, each interpolated between its evaluations, and their range."""
    rows = [sorted((spent(mark), gain) for mark, gain in curve.gains(metric)) for curve in curves]
    grid = np.linspace(max(row[0][0] for row in rows), min(row[-1][0] for row in rows), 40)
    columns = [([x for x, _ in row], [y for _, y in row]) for row in rows]
    values = np.array([np.interp(grid, xs, ys) for xs, ys in columns])
    number = f"of-{look.number}"
    if len(rows) > 1:
        axes.fill_between(grid, values.min(0), values.max(0), color=look.colour, alpha=0.18, lw=0, gid=number)
    axes.plot(grid, values.mean(0), **look.line(markevery=8))


# --- over-optimisation ------------------------------------------------------------------------------------------------

NAMES = {"gold": "Hidden gold", "accuracy": "Accuracy", "reward": "Proxy: the reward", "length": "Length"}
"""What is drawn against the distance from the start."""


def runs_of(results: Results, curves: Sequence[Curve], task: str, metric: str) -> dict[str, list[list[Point]]]:
    """By method, all its settings together: each run's KL and gain, at every evaluation and at the end."""
    found: dict[str, list[list[Point]]] = {}
    paths = {curve.cell.id: _path(curve, metric) for curve in curves}
    for cell in results.cells:
        if cell.task == task and cell.role == "algorithm" and {"kl", metric} <= cell.after.keys():
            end = (max(cell.after["kl"], 0.0), final_gain(results, cell, metric))
            found.setdefault(results.compared(cell.algorithm).name, []).append([*paths.get(cell.id, ()), end])
    return found


def _path(curve: Curve, metric: str) -> list[Point]:
    """Where a run came along: KL and gain."""
    if not curve.from_the_start or (metric == "reward" and curve.own_reward):
        return []
    return [(max(m.figures["kl"], 0.0), gain) for m, gain in curve.gains(metric) if "kl" in m.figures]


def final_gain(results: Results, cell: CellResult, metric: str) -> float:
    """A finished run's figure less that of the start with the same seed's draws."""
    starts = [c for c in results.cells if c.role == "start" and (c.task, c.seed) == (cell.task, cell.seed)]
    start = next((c.after[metric] for c in starts if metric in c.after), math.nan)
    return cell.after[metric] - start


def frontier(results: Results, task: str, curves: Sequence[Curve], looks: Looks) -> list[Picture]:
    """Gold, proxy and length against √KL; and which settings give the most gold for their KL."""
    drawn: dict[str, Any] = {}
    for metric in NAMES:
        runs = runs_of(results, curves, task, metric)
        if runs and runs not in drawn.values():  # where a computer verifies, gold, accuracy and reward may be one
            drawn[metric] = runs
    pictures = [_distance(results, task, metric, curves, looks) for metric in drawn]
    return [*pictures, _pareto(results, task, looks)] if pictures else []


def _distance(results: Results, task: str, metric: str, curves: Sequence[Curve], looks: Looks) -> Picture:
    shown = [each.label for each in results.algorithms if each.role in ("algorithm", "best-of")]
    fitted = metric == results.metric[task]

    def draw(axes: Any) -> None:
        axes.axhline(0.0, color=QUIET, ls=":", lw=1)
        for curve in curves:
            if curve.cell.task == task and curve.cell.role == "algorithm":
                _thin(axes, _path(curve, metric), looks.of[curve.algorithm])
        for label in shown:
            for cell in _cells(results, task, label, metric):
                end = math.sqrt(max(cell.after["kl"], 0.0)), final_gain(results, cell, metric)
                axes.plot(*([x] for x in end), **looks.of[label].line(ls="", ms=6))
        if fitted:
            _fits(axes, runs_of(results, curves, task, metric), results, looks)
        axes.set_xlim(left=0)
        axes.set_xlabel("√KL to the start, nats per sequence")
        unit = "tokens" if metric == "length" else metric
        axes.set_ylabel(f"{unit}, gain over the start")

    says = (
        f"{NAMES[metric]} on {task} against the distance from the start: marks are finished runs, thin lines their way"
    )
    says += ", broad lines the fit of each method, a ring where it turns over" if fitted else ""
    says += _on_the_way(results)
    return Picture(slug(task, "distance", metric), NAMES[metric], f"{says}.", draw, shown)


def _thin(axes: Any, points: Sequence[Point], look: Look) -> None:
    distance, gains = [math.sqrt(kl) for kl, _ in points], [gain for _, gain in points]
    axes.plot(distance, gains, color=look.colour, lw=0.8, alpha=0.6, gid=f"of-{look.number}")


def _fits(axes: Any, runs: Mapping[str, list[list[Point]]], results: Results, looks: Looks) -> None:
    """Each method's fit as far as its runs went; a ring where it turns."""
    for name, points in runs.items():
        found = fit(points, 0.0)
        if found is None:
            continue
        look = looks.method(name)
        d = np.linspace(0.0, found.furthest, 60)
        common: dict[str, Any] = {"color": look.colour, "gid": f"of-{look.number}"}
        axes.plot(d, [found.at(x) for x in d], lw=4, alpha=0.3, **common)
        if found.turns and found.turn > 0:
            axes.plot([found.turn], [found.at(found.turn)], marker="o", ms=11, mfc="none", mew=1.6, ls="", **common)


def _pareto(results: Results, task: str, looks: Looks) -> Picture:
    metric = results.metric[task]
    labels = [
        each.label for each in results.algorithms if each.role != "random" and _cells(results, task, each.label, metric)
    ]
    means = [(max(_mean(results, task, label, "kl"), 0.0), _mean(results, task, label, metric)) for label in labels]

    def draw(axes: Any) -> None:
        best = [means[i] for i in pareto(means)]
        axes.plot(
            [kl for kl, _ in best], [value for _, value in best], color=INK, lw=1.2, drawstyle="steps-post", alpha=0.6
        )
        for label, (kl, value) in zip(labels, means, strict=True):
            axes.plot([kl], [value], **looks.of[label].line(ls="", ms=7))
        axes.set_xlabel("KL to the start, nats per sequence")
        axes.set_ylabel(f"{metric}, mean over seeds")

    says = f"Means over seeds of {metric} and KL on {task}; on the line is what no other beats in both."
    return Picture(slug(task, "pareto"), f"The most {metric} for its KL", says, draw, labels)


# --- differences, profiles, costs -------------------------------------------------------------------------------------


def differences(results: Results, task: str) -> Picture | None:
    """Every pair of algorithms: difference and interval."""
    pairs = [oriented(p) for p in results.pairs if p.task == task and p.family == "algorithms" and p.low is not None]
    if not pairs:
        return None

    def draw(axes: Any) -> None:
        for row, pair in enumerate(reversed(pairs)):
            colour = INK if pair.significant else QUIET
            axes.plot([pair.low, pair.high], [row, row], color=colour, lw=1.6, solid_capstyle="butt")
            axes.plot([pair.difference], [row], color=colour, marker="o" if pair.significant else "D", ms=5)
        axes.axvline(0.0, color=INK, lw=0.8)
        axes.set_yticks(range(len(pairs)), [f"{p.a} − {p.b}" for p in reversed(pairs)])
        axes.set_ylim(-0.6, len(pairs) - 0.4)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"difference in {pairs[0].metric}")

    says = (
        f"Paired differences on {task}, the better first, with intervals that hold together; filled circles are shown, "
        "for their interval leaves out 0."
    )
    return Picture(slug(task, "differences"), "Differences", says, draw, (), (4.5, 1.2 + 0.34 * len(pairs)))


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
    return Picture("profiles", "Performance profiles", says, draw, shown)


def seconds(results: Results, task: str, timings: Timings) -> Picture | None:
    """Where the seconds of training went."""
    labels = [each.label for each in results.algorithms if each.role in ("algorithm", "random")]
    spent = {label: _phases(results, task, label, timings) for label in labels}
    spent = {label: phases for label, phases in spent.items() if sum(phases.values())}
    if not spent:
        return None

    def draw(axes: Any) -> None:
        names = list(reversed(spent))
        left = np.zeros(len(names))
        for number, phase in enumerate(PHASES):
            widths = np.array([spent[name].get(phase, 0.0) for name in names])
            bars = {"color": QUIET, "alpha": (0.25, 1.0, 0.5, 0.75)[number], "edgecolor": GRID, "lw": 0.4}
            axes.barh(names, widths, left=left, height=0.6, label=phase, **bars)
            left += widths
        axes.figure.legend(ncols=4, fontsize=8, frameon=False, loc="outside upper center", handlelength=1.4)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds of training, mean over seeds")

    says = f"Seconds of training on {task} by phase: sampling, scoring, filling columns, updating."
    return Picture(slug(task, "seconds"), "Where the seconds go", says, draw, (), (4.5, 1.3 + 0.34 * len(spent)))


def _phases(results: Results, task: str, label: str, timings: Timings) -> dict[str, float]:
    cells = [cell for cell in results.cells if (cell.task, cell.algorithm) == (task, label) and cell.has_figures]
    found = [timings.get(cell.id, {}) for cell in cells]
    return {phase: sum(each.get(f"seconds/{phase}", 0.0) for each in found) / max(1, len(found)) for phase in PHASES}


# --- parts ------------------------------------------------------------------------------------------------------------


def _cells(results: Results, task: str, label: str, metric: str) -> list[CellResult]:
    """An algorithm's runs on a task that have the figure and a KL."""
    mine = [cell for cell in results.cells if (cell.task, cell.algorithm) == (task, label) and cell.role != "trial"]
    return [cell for cell in mine if {"kl", metric} <= cell.after.keys()]


def _mean(results: Results, task: str, label: str, metric: str) -> float:
    """Over the seeds."""
    return float(np.mean([cell.after[metric] for cell in _cells(results, task, label, metric)]))


def _short(value: float, position: int) -> str:
    """1200 -> 1.2k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
