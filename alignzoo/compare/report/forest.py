"""Pictures of intervals, a row an algorithm: where each stands, how far it is from a control, and from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignzoo.compare.headlines import oriented
from alignzoo.compare.report.drawing import INK, QUIET, Looks, Picture, slug
from alignzoo.compare.results import CHAIN, Compared, Pair, Results, Standing

EACH = 15
"""So many pairs of algorithms have a row each; of more, every algorithm is drawn against the one with the highest mean,
and the table has them all."""

ROW, REST = 0.27, 0.95
"""Inches of a row, and of the axis."""


# --- where each stands ------------------------------------------------------------------------------------------------


def standings(results: Results, task: str, looks: Looks) -> Picture | None:
    """Mean and interval of each, every seed as a dot, all on one axis with the start as a line."""
    rows = ranked(results, task)
    if not rows:
        return None
    start = next((row.mean for row in rows if results.compared(row.algorithm).role == "start"), None)
    low, high = scale(rows)

    def draw(axes: Any) -> None:
        for y, row in enumerate(reversed(rows)):
            look = looks.of[row.algorithm]
            common = {"color": look.colour, "gid": f"of-{look.number}"}
            axes.plot([max(row.low, low), min(row.high, high)], [y, y], lw=2.2, alpha=0.45, **common)
            for end, sign, edge in ((row.low < low, "<", low), (row.high > high, ">", high)):
                if end:
                    axes.plot([edge], [y], marker=sign, ms=5, ls="", **common)
            counted = _without_figures(results, task, row)
            for seed, value in enumerate(row.values):
                axes.plot([value], [y], marker="x" if seed in counted else "o", ms=3.2, alpha=0.75, ls="", **common)
            axes.plot([row.mean], [y], marker="|", ms=13, mew=2.4, ls="", **common)
        if start is not None:
            axes.axvline(start, color=QUIET, ls=":", lw=1.2)
        axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        _rows(axes, [row.algorithm for row in rows])
        axes.set_xlabel(f"held-out {rows[0].metric}; the dotted line is the start", loc="right")

    says = (
        f"Held-out {rows[0].metric} on {task}: bars are means, lines their intervals, which hold together, dots the "
        "seeds; an arrow where an interval goes on"
    )
    says += "; a cross is a run that failed, as it is counted" if any(row.failed for row in rows) else ""
    return Picture(slug(task, "standings"), who_leads(results, task), f"{says}.", draw, (), _size(len(rows)))


def ranked(results: Results, task: str) -> list[Standing]:
    """By the compared figure, the best first."""
    metric = results.metric[task]
    return sorted((s for s in results.standings if (s.task, s.metric) == (task, metric)), key=lambda s: -s.mean)


def scale(standings: Sequence[Standing]) -> tuple[float, float]:
    """From the lowest to the highest value of any seed, with room; an interval that goes further is cut there."""
    values = [value for standing in standings for value in standing.values]
    if not values:
        return 0.0, 1.0
    room = 0.35 * (max(values) - min(values)) or 1.0
    low, high = min(values) - room, max(values) + room
    return max(low, min(s.low for s in standings)), min(high, max(s.high for s in standings))


def _without_figures(results: Results, task: str, row: Standing) -> set[int]:
    """The places among a row's values of seeds whose run has none of its own."""
    mine = [c for c in results.cells if (c.task, c.algorithm) == (task, row.algorithm) and c.role != "trial"]
    seeds = sorted({cell.seed for cell in results.cells if cell.task == task and cell.role != "trial"})
    known = {cell.seed for cell in mine if cell.has_figures}
    return {place for place, seed in enumerate(seeds) if seed not in known} if row.failed else set()


def who_leads(results: Results, task: str) -> str:
    """The finding: who is shown to be better than whom."""
    among = [oriented(p) for p in results.pairs if p.task == task and p.family == "algorithms"]
    shown = sorted((p for p in among if p.significant), key=lambda p: -p.difference)
    rows = [row for row in ranked(results, task) if results.compared(row.algorithm).role == "algorithm"]
    if not rows:
        return f"Where each stands on {task}"
    leader = rows[0].algorithm
    if len(rows) == 1:
        return f"{leader} comes to {rows[0].mean:.2f} {rows[0].metric} on {task}"
    if sum(p.a == leader for p in shown) == len(rows) - 1:
        return f"{leader} beats every other algorithm on {task}"
    if shown:
        others = f", and {len(shown) - 1} more pairs are told apart" if len(shown) > 1 else ""
        return f"{shown[0].a} beats {shown[0].b} on {task}{others}"
    n = len(rows[0].values)
    if n < 2:
        return f"{leader} has the highest mean on {task}; one seed shows no difference"
    return f"No two algorithms are told apart on {task} with {n} seeds"


# --- differences ------------------------------------------------------------------------------------------------------


def against_controls(results: Results, task: str) -> list[Picture]:
    """Each algorithm less each control, the best first."""
    found = []
    controls = (each for each in results.algorithms if each.role in CHAIN)
    for control in sorted(controls, key=lambda each: CHAIN.index(each.role)):
        pairs = [p for p in results.pairs if p.task == task and p.b == control.label and p.low is not None]
        pairs = [p for p in pairs if results.compared(p.a).role == "algorithm"]
        if pairs:
            found.append(_against(control, sorted(pairs, key=lambda p: -p.difference), task))
    return found


def _against(control: Compared, pairs: Sequence[Pair], task: str) -> Picture:
    better = sum(pair.significant and pair.difference > 0 for pair in pairs)
    worse = sum(pair.significant and pair.difference < 0 for pair in pairs)
    whom = {"start": "the start", "random": "training on a random reward"}.get(control.role, control.label)
    title = f"{better} of {len(pairs)} {'beats' if better == 1 else 'beat'} {whom}" + (
        f"; {worse} {'is' if worse == 1 else 'are'} worse" if worse else ""
    )
    says = (
        f"Each algorithm less {control.label} on {task}, the best first; intervals hold together; filled where the "
        "difference is shown"
    )
    says += "; pale where it is not tested" if any(not pair.reached for pair in pairs) else ""
    name = slug(task, "against", control.role)
    return Picture(name, title, f"{says}.", _forest(pairs, [pair.a for pair in pairs]), (), _size(len(pairs)))


def differences(results: Results, task: str) -> Picture | None:
    """Every pair of algorithms, the better first; of many, every algorithm against the one with the highest mean."""
    pairs = [oriented(p) for p in results.pairs if p.task == task and p.family == "algorithms" and p.low is not None]
    if not pairs:
        return None
    leader = next(r.algorithm for r in ranked(results, task) if results.compared(r.algorithm).role == "algorithm")
    many = len(pairs) > EACH
    pairs = sorted((p for p in pairs if not many or leader in (p.a, p.b)), key=lambda p: -p.difference)
    shown = sum(pair.significant for pair in pairs)
    several = len(pairs) > 1
    title = f"{shown} of {len(pairs)} {'differences' if several else 'difference'} between algorithms "
    title += "are shown" if several and shown != 1 else "is shown"
    says = (
        f"Paired differences on {task}, the better first, with intervals that hold together; filled where one is shown"
    )
    says += f"; of all pairs those with {leader}, which has the highest mean" if many else ""
    labels = [f"{p.a} − {p.b}" for p in pairs]
    return Picture(slug(task, "differences"), title, f"{says}.", _forest(pairs, labels), (), _size(len(pairs)))


def _forest(pairs: Sequence[Pair], labels: Sequence[str]) -> Any:
    def draw(axes: Any) -> None:
        for row, pair in enumerate(reversed(pairs)):
            ink = {"color": INK if pair.significant else QUIET, "alpha": 1.0 if pair.reached else 0.45}
            axes.plot([pair.low, pair.high], [row, row], lw=1.8, solid_capstyle="butt", **ink)
            face = ink["color"] if pair.significant else "none"
            axes.plot([pair.difference], [row], marker="o", ms=5.5, mfc=face, mew=1.4, ls="", **ink)
        axes.axvline(0.0, color=INK, lw=0.9)
        _rows(axes, labels)
        axes.set_xlabel(f"difference in {pairs[0].metric}")

    return draw


# --- parts ------------------------------------------------------------------------------------------------------------


def _rows(axes: Any, labels: Sequence[str]) -> None:
    """A row each, the first on top; the axis is written above, too, where its foot is far away."""
    axes.set_yticks(range(len(labels)), [shortened(label) for label in reversed(labels)])
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.grid(visible=False, axis="y")
    if len(labels) > EACH:
        axes.tick_params(top=True, labeltop=True)


def shortened(label: str, most: int = 34) -> str:
    """A label that leaves room for the picture: a setting is named shortly, and the middle gives way."""
    label = plainer(label)
    return label if len(label) <= most else f"{label[: most - 13]}…{label[-12:]}"


def plainer(label: str) -> str:
    """A label whose settings of the optimizer are called by their own names."""
    return label.replace("[optimizer.", "[").replace(",optimizer.", ",")


def _size(rows: int) -> tuple[float, float]:
    return (4.5, REST + ROW * rows)
