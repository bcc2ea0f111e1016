"""What was found of a judge: a table, and a picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.judging.agreement import Estimate
from alignzoo.judging.examine import AS_P, FIGURES, Examination
from alignzoo.judging.fitness import Bars, Fitness
from alignzoo.report.curves import COLOURS, whole

if TYPE_CHECKING:
    from rich.console import RenderableType

CORRELATIONS = ("length", "length_labels")

WANTED = {"unanswered": "at most", "consistent": "at least", "repeatable": "at least", "padded": "at most"}
"""The figures that have a bar of their own, and on which side of it they should be."""

BINS = 9
"""Into how many the pairs are put by length, for the picture."""


def examination_table(found: Examination, bars: Bars, finding: Fitness) -> RenderableType:
    """Every figure with its interval and its bar, the agreement with each rater, and the finding."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=box.SIMPLE_HEAD, title=f"The judge, on {found.pairs} pairs", title_justify="left")
    for heading, justify in (("", "left"), ("figure", "right"), ("95 % interval", "right"), ("n", "right")):
        rows.add_column(heading, justify=justify)  # type: ignore[arg-type]
    rows.add_column("wanted")
    for name, meaning in FIGURES.items():
        if name in found.figures:
            rows.add_row(meaning, *_cells(found.figures[name], share=name not in CORRELATIONS), _wanted(name, bars))
        else:
            rows.add_row(meaning, "", "", "", found.unmeasured[name], style="dim")
    alike = Table(box=box.SIMPLE_HEAD, title="Agreement", title_justify="left")
    for heading in ("", "", "alike", "κ", "95 % interval of κ", "n"):
        alike.add_column(heading, justify="right" if heading else "left")
    for couples in (found.judged, found.raters):
        for each in couples:
            share, kappa = f"{each.agreement.value:.1%}", _cells(each.kappa, share=False)
            alike.add_row(each.first, each.second, share, *kappa, style="" if couples is found.judged else "dim")
        alike.add_section()
    rows.title_style = alike.title_style = "bold"
    legend = f"κ: Cohen's, beyond chance; {bars.kappa:g} or more wanted with the majority, or the one rater."
    return Group(rows, alike, Text(legend, style="dim"), Text(f"\n{finding}", style="bold"))


def _cells(figure: Estimate, *, share: bool) -> list[str]:
    form = ".1%" if share else ".2f"
    return [f"{figure.value:{form}}", f"{figure.low:{form}} to {figure.high:{form}}", str(figure.n)]


def _wanted(name: str, bars: Bars) -> str:
    if name == "length":
        return f"at most {bars.length:g} above the labels'"
    return f"{WANTED[name]} {getattr(bars, name):.0%}" if name in WANTED else "50% is fair" if name == "first" else ""


def examination_picture(found: Examination, bars: Bars, finding: Fitness, path: Path) -> None:
    """Three panels: the figures with their bars, κ with every rater, and how preference goes with length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    shares, kappas, lengths = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
    _draw_shares(shares, found, bars)
    _draw_kappas(kappas, found, bars)
    _draw_lengths(lengths, found)
    for axes in (shares, kappas, lengths):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    figure.suptitle(str(finding), fontsize=9, wrap=True)
    whole(path, figure.savefig)


def _draw_shares(axes: Any, found: Examination, bars: Bars) -> None:
    names = [name for name in FIGURES if name in found.figures and name not in CORRELATIONS]
    _dots(axes, [(FIGURES[name], found.figures[name]) for name in names], COLOURS[0])
    for row, name in enumerate(names):
        if name in WANTED:
            bar, side = getattr(bars, name), ">" if WANTED[name] == "at least" else "<"
            axes.plot([bar], [row], marker=side, color=COLOURS[1], ms=7, ls="", label="wanted" if row == 0 else None)
    axes.set_xlim(-0.03, 1.03)
    axes.set_title("shares; triangles point to what is wanted", fontsize=8)


def _draw_kappas(axes: Any, found: Examination, bars: Bars) -> None:
    _dots(axes, [(f"judge, {each.second}", each.kappa) for each in found.judged], COLOURS[0])
    _dots(axes, [(f"{each.first}, {each.second}", each.kappa) for each in found.raters], COLOURS[2], len(found.judged))
    axes.axvline(bars.kappa, color=COLOURS[1], lw=1, ls=":")
    axes.set_xlim(min([-0.1, *(each.kappa.low - 0.05 for each in (*found.judged, *found.raters))]), 1.03)
    axes.set_title("Cohen's κ: the judge (blue), raters (green)", fontsize=8)


def _dots(axes: Any, rows: Sequence[tuple[str, Estimate]], colour: str, start: int = 0) -> None:
    """A dot with its interval for each row, from the top."""
    for row, (_, each) in enumerate(rows, start):
        axes.plot([each.low, each.high], [row, row], color=colour, lw=1.5)
        axes.plot([each.value], [row], marker="o", color=colour, ms=5)
    labels = [*(tick.get_text() for tick in axes.get_yticklabels()[:start]), *(label for label, _ in rows)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _draw_lengths(axes: Any, found: Examination) -> None:
    """The mean preference of pairs of alike difference in length: the judge's, and the labels'."""
    from matplotlib.ticker import NullLocator

    judge = [(longer, p) for longer, p, _ in found.points]
    labels = [(longer, AS_P[truth]) for longer, _, truth in found.points if truth is not None]
    for colour, name, points in ((COLOURS[0], "judge", judge), (COLOURS[2], "labels", labels)):
        axes.plot(*zip(*_binned(points), strict=True), marker="o", ms=4, lw=1.4, color=colour, label=name)
    axes.axhline(0.5, color="#9a9a9a", lw=0.8)
    axes.axvline(0, color="#9a9a9a", lw=0.8)
    axes.set_xscale("symlog", linthresh=10)
    far = max([10, *(abs(longer) for longer, _, _ in found.points)])
    steps = [10**k for k in range(1, 9) if 10**k <= far]
    axes.set_xticks([*(-step for step in reversed(steps)), 0, *steps])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("words that the first answer has more", fontsize=8)
    axes.set_title("preference for the first answer", fontsize=8)
    axes.legend(fontsize=8, frameon=False)


def _binned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """The mean length and preference of equally large bins."""
    ordered = sorted(points, key=lambda point: point[0])  # by length alone: ties keep the data's order
    cuts = [round(i * len(ordered) / BINS) for i in range(BINS + 1)]
    bins = [ordered[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    return [(sum(x for x, _ in each) / len(each), sum(y for _, y in each) / len(each)) for each in bins] or [(0.0, 0.5)]
