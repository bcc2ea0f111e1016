"""The report of a comparison: one HTML file that needs nothing else, and its twin in Markdown with its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alignzoo.compare.frontier import FORMS, Fit, fit
from alignzoo.compare.headings import COSTS, FIGURES
from alignzoo.compare.marks import marks
from alignzoo.compare.report import costs, forest, gather, pictures, scores
from alignzoo.compare.report.drawing import Look, Looks, Picture
from alignzoo.compare.report.written import cell_text, environment, number, place, typeset
from alignzoo.compare.results import Column, Compared, Pair, Results, Standing, read_results
from alignzoo.files import read_json
from alignzoo.registry import Registry
from alignzoo.storage import write_text


@dataclass(frozen=True)
class Row:
    """An algorithm's line in the table of a task."""

    compared: Compared
    look: Look
    standing: Standing | None
    figures: Mapping[str, float]
    """Means over seeds of figures and costs."""
    runs: int
    finished: int
    marks: Sequence[str]
    """What a reader of the mean must know: failed runs, a budget that was missed."""


@dataclass(frozen=True)
class Turn:
    """A method's fit in words."""

    method: str
    look: Look
    fit: Fit
    formula: str
    """Its form, as FORMS writes it."""

    @property
    def said(self) -> str:
        """Where gold turns over."""
        found = self.fit
        if not found.turns:
            return f"not shown up to d = {found.furthest:.2f}"
        between = "" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
        return f"d = {found.turn:.2f}{between}, at a KL of {found.turn**2:.2f}"


@dataclass(frozen=True)
class TaskPage:
    """What the report says of a task."""

    task: str
    metric: str
    headlines: Sequence[str]
    columns: Mapping[str, str]
    """Columns of the table, beside the compared figure."""
    costs: Mapping[str, str]
    """Columns of the table of costs: what was spent at all."""
    rows: Sequence[Row]
    """Best first."""
    scale: tuple[float, float]
    """Range of the intervals in the table, from and to."""
    start: float | None
    """The mean of the start, a line in the table."""
    standings: Picture | None
    against: Sequence[Picture]
    """Every algorithm less a control."""
    learning: Sequence[Picture]
    frontier: Sequence[Picture]
    turns: Sequence[Turn]
    differences: Picture | None
    pairs: Sequence[Pair]
    wins: Mapping[tuple[str, str], Any]
    rivals: Sequence[str]
    """The algorithms of the win-rate matrix."""
    seconds: Picture | None
    distributions: Picture | None
    also: Sequence[Column]
    """What `--also` asked for."""
    beside: scores.Beside | None
    proxy: Picture | None

    @property
    def best(self) -> str:
        """The algorithm with the highest mean, whether or not it is shown to be better."""
        ranked = [r for r in self.rows if r.compared.role == "algorithm" and r.standing is not None]
        return max(ranked, key=lambda r: r.standing.mean if r.standing else 0.0).compared.label if ranked else ""


def write_report(
    folder: str | Path, *, registry: Registry | None = None, results: Results | None = None, going_on: str = ""
) -> Path:
    """Write report.html, and report.md with its pictures in report/, from a finished comparison's folder.

    Of a comparison that is `going_on`, which says how far it is, report.html alone, of the `results` so far."""
    folder = Path(folder)
    about = _about(folder, results or read_results(folder), registry or Registry()) | {"going_on": going_on}
    page = folder / "report.html"
    write_text(page, environment(autoescape=True).get_template("report.html.j2").render(**about), private=True)
    if going_on:
        return page
    write_text(folder / "report.md", environment(autoescape=False).get_template("report.md.j2").render(**about))
    (folder / "report").mkdir(exist_ok=True)
    for picture in all_pictures(about):
        write_text(folder / "report" / f"{picture.name}.svg", picture.plain(about["looks"]))
    return page


def all_pictures(about: Mapping[str, Any]) -> list[Picture]:
    """Every picture, in the order of the page."""
    found: list[Picture | None] = []
    for page in about["tasks"]:
        found += [page.standings, *page.against, page.differences, *page.learning, *page.frontier, page.proxy]
        found += [page.distributions, page.beside.picture if page.beside else None, page.seconds]
    return [picture for picture in [*found, about["profiles"]] if picture is not None]


def _about(folder: Path, results: Results, registry: Registry) -> dict[str, Any]:
    """Everything that the templates speak of."""
    looks = Looks(results)
    path = folder / "timings.json"
    timings: Mapping[str, Any] = read_json(path) if path.exists() else {}
    curves = gather.curves(folder, results)
    templates = Path(__file__).parent / "templates"
    return {
        "names": list(dict.fromkeys(each.name for each in results.algorithms if each.role == "algorithm")),
        "style": Markup((templates / "style.css").read_text(encoding="utf-8")),
        "script": Markup((templates / "report.js").read_text(encoding="utf-8")),
        "results": results,
        "covers": f"{1 - results.settings['level']:.0%}".replace("%", " %"),
        "looks": looks,
        "tasks": [_task(folder, results, task, curves, timings, looks) for task in results.tasks],
        "overall": [headline.text for headline in results.headlines if not headline.task],
        "profiles": costs.profiles(results, looks),
        "together": sorted((each for each in results.standings if not each.task), key=lambda each: -each.iqm),
        "warnings": gather.warnings(folder, results),
        "samples": gather.samples(folder, results),
        "cards": gather.cards(folder, results, registry),
    }


def _task(
    folder: Path, results: Results, task: str, curves: Sequence[gather.Curve], timings: costs.Timings, looks: Looks
) -> TaskPage:
    metric = results.metric[task]
    rows = [_row(results, task, metric, each, timings, looks) for each in results.algorithms]
    rows = sorted((row for row in rows if row.runs), key=lambda row: -row.standing.mean if row.standing else math.inf)
    wins = {(win.a, win.b): win for win in results.win_rates if win.task == task}
    known = scores.told(folder, results, task)
    rivals = [each.label for each in results.algorithms if any(each.label in pair for pair in wins)]
    return TaskPage(
        task=task,
        metric=metric,
        headlines=[headline.text for headline in results.headlines if headline.task == task],
        columns={name: FIGURES[name] for name in FIGURES if _says_more(name, metric, rows)},
        costs={name: COSTS[name] for name in COSTS if any(row.figures.get(name) for row in rows)},
        rows=rows,
        scale=forest.scale([row.standing for row in rows if row.standing is not None]),
        start=next((r.standing.mean for r in rows if r.compared.role == "start" and r.standing), None),
        standings=forest.standings(results, task, looks),
        against=forest.against_controls(results, task),
        learning=pictures.learning(results, task, curves, looks),
        frontier=pictures.frontier(results, task, curves, looks),
        turns=_turns(results, task, metric, curves, looks),
        differences=forest.differences(results, task),
        pairs=[pair for pair in results.pairs if pair.task == task],
        wins=wins,
        rivals=rivals,
        seconds=costs.seconds(results, task, timings),
        distributions=scores.distributions(results, task, known, looks),
        also=[column for column in results.columns if column.task == task],
        beside=scores.beside(results, task, known, looks),
        proxy=scores.proxy(results, task, known, looks) if metric == "gold" else None,
    )


def _row(results: Results, task: str, metric: str, compared: Compared, timings: costs.Timings, looks: Looks) -> Row:
    cells = [c for c in results.cells if (c.task, c.algorithm) == (task, compared.label) and c.role == compared.role]
    with_figures = [cell for cell in cells if cell.has_figures]
    mine = (s for s in results.standings if (s.task, s.algorithm, s.metric) == (task, compared.label, metric))
    standing = next(mine, None)
    figures = _means([{**cell.after, **cell.costs, **timings.get(cell.id, {})} for cell in with_figures])
    finished = sum(cell.status == "ok" for cell in cells)
    told = list(marks(results, task, compared.label))
    return Row(compared, looks.of[compared.label], standing, figures, len(cells), finished, told)


def _says_more(name: str, metric: str, rows: Sequence[Row]) -> bool:
    """Whether a column is there, and is not the compared figure again: a verifiable reward is its own gold."""
    return any(name in r.figures and r.figures[name] != r.figures.get(metric) for r in rows)


def _means(every: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for figures in every for name in figures)
    known = {name: [figures[name] for figures in every if name in figures] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in known.items()}


def _turns(results: Results, task: str, metric: str, curves: Sequence[gather.Curve], looks: Looks) -> list[Turn]:
    fits = {name: fit(runs, 0.0) for name, runs in pictures.runs_of(results, curves, task, metric).items()}
    return [Turn(name, looks.method(name), one, FORMS[one.form]) for name, one in fits.items() if one is not None]


__all__ = ["cell_text", "number", "place", "typeset", "write_report"]
