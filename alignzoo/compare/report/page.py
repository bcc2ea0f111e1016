"""The report of a comparison: one HTML file that needs nothing else, and its twin in Markdown with its pictures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alignzoo.compare.frontier import FORMS, Fit, fit
from alignzoo.compare.marks import marks
from alignzoo.compare.report import gather, pictures
from alignzoo.compare.report.drawing import Look, Looks, Picture
from alignzoo.compare.results import Compared, Pair, Results, Standing, read_results
from alignzoo.files import read_json
from alignzoo.printable import fenced, printable
from alignzoo.registry import Registry
from alignzoo.storage import write_text

COLUMNS = {
    "reward": "reward",
    "gold": "gold",
    "accuracy": "accuracy",
    "kl": "KL",
    "length": "length",
    "entropy": "entropy",
    "distinct/2": "distinct-2",
    "finished": "finished",
}
"""The figures of the table beside the compared one, and their headings."""

COSTS = {
    "tokens": "tokens",
    "tokens/generated": "generated",
    "tokens/trained": "trained",
    "flops": "FLOP",
    "flops/forward": "forward",
    "flops/backward": "backward",
    "calls": "judge calls",
}
"""Likewise of costs."""

DIGITS = {"length": 1, "distinct/2": 3}
"""Decimals of the figures that are not shown with two."""


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
    learning: Sequence[Picture]
    frontier: Sequence[Picture]
    turns: Sequence[Turn]
    differences: Picture | None
    pairs: Sequence[Pair]
    wins: Mapping[tuple[str, str], Any]
    rivals: Sequence[str]
    """The algorithms of the win-rate matrix."""
    seconds: Picture | None

    @property
    def best(self) -> str:
        """The algorithm with the highest mean, whether or not it is shown to be better."""
        ranked = [r for r in self.rows if r.compared.role == "algorithm" and r.standing is not None]
        return max(ranked, key=lambda r: r.standing.mean if r.standing else 0.0).compared.label if ranked else ""


def write_report(folder: str | Path, *, registry: Registry | None = None) -> Path:
    """Write report.html, and report.md with its pictures in report/, from a finished comparison's folder."""
    folder = Path(folder)
    about = _about(folder, read_results(folder), registry or Registry())
    page = folder / "report.html"
    html = _environment(autoescape=True).get_template("report.html.j2").render(**about)
    write_text(page, html, private=True)  # it shows what models said
    write_text(folder / "report.md", _environment(autoescape=False).get_template("report.md.j2").render(**about))
    (folder / "report").mkdir(exist_ok=True)
    for picture in all_pictures(about):
        write_text(folder / "report" / f"{picture.name}.svg", picture.plain(about["looks"]))
    return page


def all_pictures(about: Mapping[str, Any]) -> list[Picture]:
    """Every picture, in the order of the page."""
    found: list[Picture | None] = []
    for page in about["tasks"]:
        found += [*page.learning, *page.frontier, page.differences, page.seconds]
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
        "tasks": [_task(results, task, curves, timings, looks) for task in results.tasks],
        "overall": [headline.text for headline in results.headlines if not headline.task],
        "profiles": pictures.profiles(results, looks),
        "together": sorted((each for each in results.standings if not each.task), key=lambda each: -each.iqm),
        "warnings": gather.warnings(folder, results),
        "samples": gather.samples(folder, results),
        "cards": gather.cards(folder, results, registry),
    }


def _task(
    results: Results, task: str, curves: Sequence[gather.Curve], timings: pictures.Timings, looks: Looks
) -> TaskPage:
    metric = results.metric[task]
    rows = [_row(results, task, metric, each, timings, looks) for each in results.algorithms]
    rows = sorted((row for row in rows if row.runs), key=lambda row: -row.standing.mean if row.standing else math.inf)
    wins = {(win.a, win.b): win for win in results.win_rates if win.task == task}
    rivals = [each.label for each in results.algorithms if any(each.label in pair for pair in wins)]
    return TaskPage(
        task=task,
        metric=metric,
        headlines=[headline.text for headline in results.headlines if headline.task == task],
        columns={name: COLUMNS[name] for name in COLUMNS if _says_more(name, metric, rows)},
        costs={name: COSTS[name] for name in COSTS if any(row.figures.get(name) for row in rows)},
        rows=rows,
        scale=_scale([row.standing for row in rows if row.standing is not None]),
        learning=pictures.learning(results, task, curves, looks),
        frontier=pictures.frontier(results, task, curves, looks),
        turns=_turns(results, task, metric, curves, looks),
        differences=pictures.differences(results, task),
        pairs=[pair for pair in results.pairs if pair.task == task],
        wins=wins,
        rivals=rivals,
        seconds=pictures.seconds(results, task, timings),
    )


def _row(results: Results, task: str, metric: str, compared: Compared, timings: pictures.Timings, looks: Looks) -> Row:
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


def _scale(standings: Sequence[Standing]) -> tuple[float, float]:
    """From the lowest to the highest value, with room; an interval that goes further is cut there."""
    values = [value for standing in standings for value in standing.values]
    if not values:
        return 0.0, 1.0
    room = 0.35 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _turns(results: Results, task: str, metric: str, curves: Sequence[gather.Curve], looks: Looks) -> list[Turn]:
    fits = {name: fit(runs, 0.0) for name, runs in pictures.runs_of(results, curves, task, metric).items()}
    return [Turn(name, looks.method(name), one, FORMS[one.form]) for name, one in fits.items() if one is not None]


# --- how it is written ------------------------------------------------------------------------------------------------


def _environment(*, autoescape: bool) -> Environment:
    loader = PackageLoader("alignzoo.compare.report")
    environment = Environment(
        loader=loader,
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    filters: dict[str, Any] = {"number": number, "share": share, "plainly": plainly, "cell": cell_text}
    environment.filters |= filters | {"clock": clock, "fenced": fenced, "typeset": typeset, "probability": probability}
    environment.globals["digits"] = DIGITS
    environment.globals["svg"] = lambda picture: Markup(picture.themed())
    environment.globals["ours"] = Markup
    environment.globals["place"] = place
    environment.globals["infinite"] = math.isinf
    return environment


def number(value: float | None, digits: int = 2) -> str:
    """2.13; 1.3M; empty where there is none."""
    if value is None or math.isnan(value):
        return ""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if letter == "k" else size):
            return f"{value / size:.3g}{letter}"
    return f"{value:.{digits}f}".replace("-", "−")


def probability(value: float | None) -> str:
    """0.034; < 0.001; empty where there is none."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def clock(seconds: float | None) -> str:
    """42 s; 3:20 min."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"


def share(value: float) -> str:
    """42 %."""
    return f"{100 * value:.0f} %"


def typeset(text: str) -> str:
    """A sentence with real minus signs, in which no number is parted from its sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")


def plainly(value: Any) -> str:
    """A setting as one writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cell_text(text: Any) -> str:
    """Text for a cell of a Markdown table, in which neither markup nor a bar means anything."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|":
        escaped = escaped.replace(sign, "\\" + sign)
    return " ".join(escaped.split())


def place(value: float, scale: tuple[float, float]) -> float:
    """Where a value is on a scale, in percent, cut at its ends."""
    low, high = scale
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)
