"""How far a comparison is, while it goes on: progress.json, and report.html of what has ended so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from alignzoo.compare.analysis import analyse
from alignzoo.compare.grid import Grid
from alignzoo.compare.plain import read_figures
from alignzoo.compare.plan import Cell
from alignzoo.compare.results import CellResult, Results
from alignzoo.errors import RunError
from alignzoo.files import read_json
from alignzoo.storage import write_json

PROGRESS = "progress.json"
"""done, total, left (seconds, or null), and the numbers of cells by status."""

SHARE = 0.1
"""At most so much of the time goes to writing reports on the way: cells of seconds do not each get one."""

EARLIEST = 20.0
"""Seconds before the first report on the way: a comparison that is over by then has its only one at the end."""

Write = Callable[[Results, str], object]
"""Writes the report of results so far, with a sentence on how far the comparison is."""


class Live:
    """Told of every cell that has ended."""

    def __init__(self, grid: Grid, folder: Path, write: Write, clock: Callable[[], float] = time.monotonic) -> None:
        self.grid, self.folder, self.write, self.clock = grid, folder, write, clock
        self.ended: list[CellResult] = []
        self.run: list[CellResult] = []
        self.began = clock()
        self.next_report = self.began + EARLIEST

    def tell(self, result: CellResult, planned: Sequence[Cell], total: int, *, new: bool) -> None:
        """A cell has ended, now or in an earlier session; `planned` are those of its part of the comparison."""
        self.ended.append(result)
        if new:
            self.run.append(result)
        done = len(self.ended)
        known = {each.id for each in self.ended}
        left = self.left([cell for cell in planned if cell.id not in known], total - done)
        statuses = [each.status for each in self.ended]
        counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
        write_json(self.folder / PROGRESS, {"done": done, "total": total, "left": left, "statuses": counts})
        if done < total and self.clock() >= self.next_report:
            self._report(planned, done, total, left)

    def left(self, cells: Sequence[Cell], number: int) -> float | None:
        """Seconds until the last cell has ended, at the pace of this session; None before its first cell has. A cell
        is expected to take what those of its algorithm took, else what the others of its kind did."""
        if not self.run:
            return None
        took = {each.id: self._took(each) for each in self.ended}
        mean = fmean(took.values())

        def expected(label: str, trains: bool) -> float:
            same = [took[each.id] for each in self.ended if each.algorithm == label]
            like = [took[each.id] for each in self.ended if (each.role in ("start", "best-of")) is not trains]
            return fmean(same or like or [mean])

        work = sum(expected(cell.algorithm, bool(cell.recipe)) for cell in cells) + mean * max(0, number - len(cells))
        pace = sum(took[each.id] for each in self.run) / max(1e-9, self.clock() - self.began)
        return work / pace if pace > 0 else None

    def _took(self, result: CellResult) -> float:
        path = self.folder / result.folder / "timing.json"
        return float(read_figures(path).get("seconds/cell", 0.0)) if path.exists() else 0.0

    def _report(self, planned: Sequence[Cell], done: int, total: int, left: float | None) -> None:
        """No verdicts: they are for the end, and each look at them would have its price."""
        shown = _comparable(self.ended, planned)
        if not any(each.role == "algorithm" and each.has_figures for each in shown):
            return
        began = self.clock()
        results = analyse(self.grid, self.folder, shown, {}, None)
        shown_columns = tuple(replace(each, pairs=()) for each in results.columns)
        results = Results(**{**vars(results), "pairs": (), "headlines": (), "columns": shown_columns})
        self.write(results, f"{done} of {total} runs have ended{'' if left is None else f', {about(left)} left'}.")
        self.next_report = self.clock() + (self.clock() - began) * (1 / SHARE - 1)


def _comparable(ended: Sequence[CellResult], planned: Sequence[Cell]) -> list[CellResult]:
    """The seeds of which every run has ended; before there is one, the first seed's runs: else a run that is still to
    come would count as one that failed."""
    ids = {each.id for each in ended}
    kept = []
    for task in dict.fromkeys(cell.task for cell in planned):
        mine = [cell for cell in planned if cell.task == task]
        seeds = list(dict.fromkeys(cell.seed for cell in mine))
        whole = [seed for seed in seeds if all(cell.id in ids for cell in mine if cell.seed == seed)] or seeds[:1]
        kept += [each for each in ended if each.task == task and each.seed in whole and each.role != "trial"]
    return kept


def about(seconds: float) -> str:
    """About 40 s, about 12 min, about 3 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {max(1, round(seconds))} s"


def read_progress(folder: Path) -> dict[str, object]:
    """progress.json of a comparison."""
    path = folder / PROGRESS
    if not path.exists():
        raise RunError(f"{folder} holds no comparison that has begun: it has no {PROGRESS}")
    return dict(read_json(path))
