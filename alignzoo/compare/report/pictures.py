"""The pictures of training: learning curves, and what is gained at which distance from the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignzoo.compare.frontier import Point, fit
from alignzoo.compare.report.direct import label_ends, label_points, room
from alignzoo.compare.report.drawing import QUIET, Look, Looks, Picture, slug
from alignzoo.compare.report.gather import Curve, Mark
from alignzoo.compare.results import CellResult, Results

AGAINST: dict[str, tuple[str, Callable[[Mark], float]]] = {
    "tokens": ("tokens, generated and trained", lambda mark: mark.tokens),
    "seconds": ("seconds of training", lambda mark: mark.seconds),
}
"""What learning is drawn against."""

# --- learning ---------------------------------------------------------------------------------------------------------


def learning(results: Results, task: str, curves: Sequence[Curve], looks: Looks) -> list[Picture]:
    """What is gained of the compared figure, against tokens and against seconds."""
    metric = results.metric[task]
    of_task = [curve for curve in curves if curve.cell.task == task and curve.cell.has_figures]
    mine = [curve for curve in of_task if curve.gains(metric)]
    return [_learning(results, task, metric, mine, looks, unit) for unit in AGAINST] if mine else []


def _learning(results: Results, task: str, metric: str, curves: Sequence[Curve], looks: Looks, unit: str) -> Picture:
    label, spent = AGAINST[unit]
    shown = [each.label for each in results.algorithms if any(c.algorithm == each.label for c in curves)]
    runs = {name: _runs(results, [c for c in curves if c.algorithm == name], metric, spent) for name in shown}
    chosen = {
        each.label: float(np.mean([final_gain(results, cell, metric) for cell in cells]))
        for each in results.algorithms
        if each.role == "best-of" and (cells := _cells(results, task, each.label, metric))
    }
    top = max(gain for every in runs.values() for run in every for _, gain in run)
    near = {name: level for name, level in chosen.items() if level <= 2.5 * max(top, 0.0)}

    def draw(axes: Any) -> None:
        for name, level in near.items():
            look = looks.of[name]
            axes.axhline(level, color=look.colour, ls=look.style, lw=1.2, gid=f"of-{look.number}")
        axes.axhline(0.0, color=QUIET, ls=":", lw=1)
        ends = [(_seeds(axes, runs[name], looks.of[name]), name, looks.of[name]) for name in shown]
        axes.set_xlabel(label)
        axes.set_ylabel(f"{metric}, gain over the start")
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(_short)
        label_ends(axes, [*ends, *((level, name, looks.of[name]) for name, level in near.items())])

    says = (
        f"What is gained of {metric} on {task}, by {label}: every seed thin, their mean heavy; it ends at the table's"
    )
    says += " value" + _on_the_way(results)
    says += _failed(results, task)
    says += "; the dashed level is choosing without training" if near else ""
    far = [f"{name}, without training, gains {level:.2f}" for name, level in chosen.items() if name not in near]
    says += "".join(f"; {each}, beyond the picture" for each in far)
    ends = {name: np.mean([run[-1] for run in every], axis=0) for name, every in runs.items()}
    best = max(ends, key=lambda name: float(ends[name][1]))
    after = _short(float(f"{ends[best][0]:.3g}"), 0)
    title = f"{best} has gained the most {metric}, {ends[best][1]:.2f}, after {after} {unit}"
    return Picture(slug(task, "learning", unit), title, f"{says}.", draw, [*near, *shown], room(len(near) + len(shown)))


def _failed(results: Results, task: str) -> str:
    """What a picture cannot show of runs that failed, whose scores are counted by a rule."""
    lost = any(cell.task == task and cell.role != "trial" and not cell.has_figures for cell in results.cells)
    return "; runs that failed are not drawn, though the table counts them" if lost else ""


def _on_the_way(results: Results) -> str:
    """How many prompts stand behind a curve, where that is not as many as behind the table."""
    evaluation = results.settings["evaluation"]
    few, all_ = evaluation.get("curve prompts", evaluation["prompts"]), evaluation["prompts"]
    return f"; on the way {few} held-out prompts are answered, in the table {all_}" if few != all_ else ""


def _runs(
    results: Results, curves: Sequence[Curve], metric: str, spent: Callable[[Mark], float]
) -> list[list[tuple[float, float]]]:
    """Each seed's way, as what is spent and gained; its end is the comparison's own evaluation."""
    found = []
    for curve in curves:
        way = [(spent(mark), gain) for mark, gain in curve.gains(metric)]
        if metric == "reward" and curve.own_reward:
            way = [(0.0, 0.0), way[-1]]  # on the way it was measured by another reward
        found.append([*way[: max(1, len(way) - 1)], (way[-1][0], final_gain(results, curve.cell, metric))])
    return found


def _seeds(axes: Any, runs: Sequence[Sequence[tuple[float, float]]], look: Look) -> float:
    """Every seed, and the mean of all at the same share of their way; where it ends."""
    shares = np.linspace(0.0, 1.0, 41)
    ways = []
    for run in runs:
        xs, ys = np.array(sorted(run)).T
        axes.plot(xs, ys, color=look.colour, ls=look.style, lw=0.7, alpha=0.5, gid=f"of-{look.number}")
        ways.append((shares * xs[-1], np.interp(shares * xs[-1], xs, ys)))
    x, y = np.mean(ways, axis=0)
    axes.plot(x, y, **look.line(markevery=8, lw=2.0))
    return float(y[-1])


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
    return [_against_kl(results, task, looks), *pictures] if pictures else []


def _distance(results: Results, task: str, metric: str, curves: Sequence[Curve], looks: Looks) -> Picture:
    shown = [each.label for each in results.algorithms if each.role in ("algorithm", "best-of")]
    fitted = metric == results.metric[task]

    def draw(axes: Any) -> None:
        axes.axhline(0.0, color=QUIET, ls=":", lw=1)
        for curve in curves:
            if curve.cell.task == task and curve.cell.role == "algorithm" and {"kl", metric} <= curve.cell.after.keys():
                end = (max(curve.cell.after["kl"], 0.0), final_gain(results, curve.cell, metric))
                _thin(axes, [*_path(curve, metric)[:-1], end], looks.of[curve.algorithm])
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
    title = _turning(results, curves, task, metric) if fitted else f"{NAMES[metric]} by the distance from the start"
    return Picture(slug(task, "distance", metric), title, f"{says}.", draw, shown)


def _turning(results: Results, curves: Sequence[Curve], task: str, metric: str) -> str:
    """The finding: whose figure falls again with the distance."""
    fits = {name: fit(runs, 0.0) for name, runs in runs_of(results, curves, task, metric).items()}
    turning = [f"{name} at √KL = {one.turn:.1f}" for name, one in fits.items() if one is not None and one.turns]
    if turning:
        return f"{NAMES[metric]} turns over: {', '.join(turning)}"
    return f"{NAMES[metric]} turns over for no method, as far as they went"


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


def _against_kl(results: Results, task: str, looks: Looks) -> Picture:
    """What is compared against KL: means, seeds and errors; the settings of one method are joined."""
    metric = results.metric[task]
    rows = {s.algorithm: s for s in results.standings if (s.task, s.metric) == (task, metric)}
    every = [each for each in results.algorithms if each.role != "random"]
    points = {each.label: cells for each in every if (cells := _cells(results, task, each.label, metric))}
    at = {label: (_kl(cells), rows[label].mean) for label, cells in points.items() if label in rows}

    def draw(axes: Any) -> None:
        for name in dict.fromkeys(each.name for each in every if each.role == "algorithm"):
            line = sorted(at[each.label] for each in every if each.name == name and each.label in at)
            axes.plot(*np.array(line).reshape(-1, 2).T, color=looks.method(name).colour, lw=1, alpha=0.5)
        for label, (kl, value) in at.items():
            look, cells = looks.of[label], points[label]
            kls = [max(cell.after["kl"], 0.0) for cell in cells]
            common = {"color": look.colour, "gid": f"of-{look.number}"}
            axes.plot(kls, [cell.after[metric] for cell in cells], marker=".", ms=4, alpha=0.5, ls="", **common)
            axes.plot([min(kls), max(kls)], [value, value], lw=1, alpha=0.7, **common)
            axes.plot([kl, kl], [rows[label].low, rows[label].high], lw=1, alpha=0.7, **common)
            axes.plot([kl], [value], **look.line(ls="", ms=7))
        axes.set_xlabel("KL to the start, nats per sequence")
        axes.set_ylabel(metric)
        _within(axes, [cell.after[metric] for cells in points.values() for cell in cells])
        label_points(axes, [(*at[label], label, looks.of[label]) for label in at])

    says = (
        f"{metric.capitalize()} and KL on {task}: large marks are means, small ones the seeds; upright the interval of "
        "the mean, level the range of the seeds' KL; the settings of one method are joined; of best-of-n the KL is at "
        "most so large"
    ) + _failed(results, task)
    trained = {each.label: at[each.label] for each in every if each.role == "algorithm" and each.label in at}
    title = f"{metric.capitalize()} against KL on {task}"
    if trained:
        best = max(trained, key=lambda label: trained[label][1])
        title = f"The most {metric}, {at[best][1]:.2f}, is {best}'s, at a KL of {at[best][0]:.2f}"
    return Picture(slug(task, "pareto"), title, f"{says}.", draw, list(at), room(len(at)))


def _kl(cells: Sequence[CellResult]) -> float:
    return max(float(np.mean([cell.after["kl"] for cell in cells])), 0.0)


def _within(axes: Any, values: Sequence[float]) -> None:
    """The axis is that of the values: long errors are cut."""
    span = max(values) - min(values) or 1.0
    axes.set_ylim(min(values) - 0.3 * span, max(values) + 0.3 * span)


# --- parts ------------------------------------------------------------------------------------------------------------


def _cells(results: Results, task: str, label: str, metric: str) -> list[CellResult]:
    """An algorithm's runs on a task that have the figure and a KL."""
    mine = [cell for cell in results.cells if (cell.task, cell.algorithm) == (task, label) and cell.role != "trial"]
    return [cell for cell in mine if {"kl", metric} <= cell.after.keys()]


def _short(value: float, position: int) -> str:
    """1200 -> 1.2k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
