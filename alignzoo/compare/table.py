"""A comparison on the terminal: tables of each task, the sentences that the data bear, and what it all has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from alignzoo.compare import marks
from alignzoo.compare.headings import COSTS, DIGITS, FIGURES
from alignzoo.compare.results import CellResult, Compared, Pair, Results, Standing
from alignzoo.files import read_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MARK = "†"
"""Beside a mean that is not what it seems."""

TIMED = {"seconds": "seconds", "memory": "memory"}
"""Costs that a clock and the allocator tell."""

NARROW = ("tokens", "flops/forward", "flops/backward")
"""Costs that the terminal leaves to the report."""


def tables(results: Results, folder: Path) -> Iterator[RenderableType]:
    """Every task, then all together where there are several, then the costs; `folder` is the comparison's."""
    for task in results.tasks:
        yield _of_task(results, task)
        yield _besides(results, task)
        yield from _columns(results, task)
        yield _sentences([headline.text for headline in results.headlines if headline.task == task])
    if any(not each.task for each in results.standings):
        yield _overall(results)
    yield _costs(results, read_json(folder / "timings.json"))


def _sentences(texts: Sequence[str]) -> RenderableType:
    """What the data bear, a point each, whose further lines begin below its first."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    points = Table.grid(padding=(0, 1))
    for text in texts:
        points.add_row("•", Text(text))
    return Padding(points, (0, 0, 1, 2))


def _of_task(results: Results, task: str) -> Table:
    """The figure that is compared, and what it has cost."""
    from rich.text import Text

    metric = results.metric[task]
    rows = _table(f"{task}: {metric} on held-out prompts")
    one_seed = results.settings["seeds"] == 1
    covers = "over\nprompts" if one_seed else f"{1 - results.settings['level']:.0%}"
    for heading in (metric, covers, "wins\nagainst\nstart", "at equal\nlength", "tokens"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("ended", overflow="fold", min_width=len("over-budget"))
    marked = {each.label: list(marks.marks(results, task, each.label)) for each in results.algorithms}
    unmarked = " " if any(marked.values()) else ""  # so that points stand below each other
    for each in _ranked(results, task):
        mine = _cells(results, task, each)
        standing = _standing(results, task, each.label)
        value = f"{standing.mean:.2f}{MARK if marked[each.label] else unmarked}" if standing else ""
        interval = f"{standing.low:.2f} to {standing.high:.2f}" if standing else ""
        tokens = [cell.costs["tokens"] for cell in mine if cell.costs.get("tokens")]
        cost = _short(sum(tokens) / len(tokens)) if tokens else "0"
        ended = ", ".join(f"{n} {status}" for status, n in _ended([cell.status for cell in mine]).items())
        _add(rows, each, value, interval, *_wins(results, task, each.label), cost, ended)
    told = [f"{label}: {', '.join(each)}" for label, each in marked.items() if each]
    rows.caption = Text(f"{MARK} {'; '.join(told)}") if told else None
    return rows


def _besides(results: Results, task: str) -> Table:
    """The other figures of the final policies."""
    every = [cell for each in results.algorithms for cell in _cells(results, task, each)]
    known = [cell.after for cell in every if cell.has_figures]
    metric = results.metric[task]  # the reward may be the same by another name
    shown = [name for name in FIGURES if any(name in each and each[name] != each.get(metric) for each in known)]
    rows = _table(f"{task}: other figures")
    for name in shown:
        rows.add_column(FIGURES[name], justify="right", no_wrap=True)
    for each in _ranked(results, task):
        figures = []
        for name in shown:
            after = [cell.after for cell in _cells(results, task, each) if cell.has_figures]
            values = [figures[name] for figures in after if name in figures]
            figures.append(f"{fmean(values):.{DIGITS.get(name, 2)}f}" if values else "")
        _add(rows, each, *figures)
    return rows


def _columns(results: Results, task: str) -> Iterator[Table]:
    """What `--also` asked for, each with its difference to the start."""
    from rich.text import Text

    for column in (each for each in results.columns if each.task == task):
        lower = ", lower is better" if column.lower_is_better else ""
        items = max((pair.n_prompts for pair in column.pairs), default=0)
        rows = _table(f"{task}: {column.name}{lower}" + (f", {items} items" if items else ""))
        covers = f"{1 - results.settings['level']:.0%}"
        for heading in ("mean", covers, "less the\nstart", f"{covers},\ntogether"):
            rows.add_column(heading, justify="right", no_wrap=True)
        beside = {pair.a: pair for pair in column.pairs if pair.family == "controls"}
        sign = 1 if column.lower_is_better else -1
        for each in sorted(column.standings, key=lambda each: sign * each.mean):
            pair = beside.get(each.algorithm)
            mark = MARK if each.failed else ""
            values = [f"{each.mean:.3f}{mark}", f"{each.low:.3f} to {each.high:.3f}"]
            values += [f"{pair.difference:+.3f}" if pair else "", _between(pair)]
            style = "" if results.compared(each.algorithm).role == "algorithm" else "dim"
            rows.add_row(Text(each.algorithm), *values, style=style)
        if any(each.failed for each in column.standings):
            rows.caption = Text(f"{MARK} runs that failed are counted as the worse of the start and their worst run")
        yield rows


def _between(pair: Pair | None) -> str:
    if pair is None:
        return ""
    if pair.low is None or pair.high is None:
        return "" if pair.p is None else "no item differs"
    return f"{pair.low:+.3f} to {pair.high:+.3f}" + (" *" if pair.shown else "")


def _cells(results: Results, task: str, of: Compared) -> list[CellResult]:
    """The cells of an algorithm, or a control, on a task that count."""
    return [c for c in results.cells if (c.task, c.algorithm) == (task, of.label) and c.role != "trial"]


def _add(rows: Table, of: Compared, *values: str) -> None:
    from rich.text import Text

    rows.add_row(Text(of.label), *values, style="" if of.role == "algorithm" else "dim")


def _overall(results: Results) -> Table:
    from rich.text import Text

    rows = _table("All tasks: the start is 0, the best of each task 1")
    rows.add_column("interquartile mean", justify="right")
    rows.add_column("95 %, stratified bootstrap", justify="right")
    every = [each for each in results.standings if not each.task]
    for each in sorted(every, key=lambda each: -each.iqm):
        style = "" if results.compared(each.algorithm).role == "algorithm" else "dim"
        rows.add_row(Text(each.algorithm), f"{each.iqm:.2f}", f"{each.low:.2f} to {each.high:.2f}", style=style)
    return rows


def _costs(results: Results, timings: Mapping[str, Mapping[str, float]]) -> Table:
    """The costs of training, all tasks together; empty for what the controls do without."""
    rows = _table("What a run has cost, on the average")
    spent = {each.label: _spent(results, each, timings) for each in results.algorithms}
    headings = {name: heading for name, heading in {**COSTS, **TIMED}.items() if name not in NARROW}
    shown = [name for name in headings if any(one.get(name) for every in spent.values() for one in every)]
    for name in shown:
        rows.add_column(headings[name].replace(" ", "\n"), justify="right", no_wrap=True)
    for each in results.algorithms:
        means = [fmean(one.get(name, 0.0) for one in spent[each.label]) for name in shown]
        _add(rows, each, *(_short(mean) if mean else "" for mean in means))
    return rows


def _spent(results: Results, of: Compared, timings: Mapping[str, Mapping[str, float]]) -> list[dict[str, float]]:
    """By each of its runs, on whatever task."""
    mine = [c for c in results.cells if c.algorithm == of.label and c.role != "trial"]
    return [{**cell.costs, **timings.get(cell.id, {})} for cell in mine]


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    # Narrow padding and a column of labels that is never squeezed away: a terminal has 80 columns.
    look = {"title_justify": "left", "title_style": "bold", "collapse_padding": True}
    rows = Table(box=box.SIMPLE_HEAD, title=title, padding=(0, 1), **look)  # type: ignore[arg-type]
    rows.caption_justify, rows.caption_style = "left", "yellow"
    rows.add_column("", overflow="fold")
    return rows


def _ranked(results: Results, task: str) -> list[Compared]:
    """Best first; what has no figures last."""

    def key(each: Compared) -> float:
        standing = _standing(results, task, each.label)
        return -standing.mean if standing else float("inf")

    return sorted(results.algorithms, key=key)


def _standing(results: Results, task: str, label: str) -> Standing | None:
    metric = results.metric[task]
    mine = (each for each in results.standings if (each.task, each.algorithm, each.metric) == (task, label, metric))
    return next(mine, None)


def _wins(results: Results, task: str, label: str) -> tuple[str, str]:
    """Against the start, as it is and at equal length."""
    starts = {each.label for each in results.algorithms if each.role == "start"}
    for each in results.win_rates:
        if (each.task, each.a) == (task, label) and each.b in starts:
            return f"{each.rate:.0%}", f"{each.length_controlled:.0%}"
    return "", ""


def _ended(statuses: list[str]) -> dict[str, int]:
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _short(number: float) -> str:
    """1.2M, 60k."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"
