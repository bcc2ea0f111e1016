"""A comparison from start to end: its cells where they are not finished, then what they come to."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignzoo.compare import also as evaluations
from alignzoo.compare import tuning
from alignzoo.compare.analysis import analyse
from alignzoo.compare.cell import died, finished
from alignzoo.compare.executors import Executor, Local
from alignzoo.compare.given import check_names, plugin_file, reward_override
from alignzoo.compare.grid import Grid
from alignzoo.compare.inference import looks_of
from alignzoo.compare.intact import check_answers, check_inputs
from alignzoo.compare.live import Live
from alignzoo.compare.plain import read_figures
from alignzoo.compare.plan import Budget, Cell, Entry, Plan, entry, read_cell
from alignzoo.compare.plan import budget as read_budget
from alignzoo.compare.report import write_report
from alignzoo.compare.results import ANEW, CellResult, Results, looks_in
from alignzoo.compare.spread import spread
from alignzoo.compare.winrates import verdicts_of
from alignzoo.errors import RunError
from alignzoo.files import line_of, read_object
from alignzoo.registry import Registry
from alignzoo.runs import api
from alignzoo.storage import LOCK, in_words, only_writer, write_json, write_text

Progress = Callable[[CellResult, int, int], None]
"""Told of each cell that has ended: it, how many have, of how many."""


def compare(
    *algorithms: str,
    task: str | Sequence[str] = (),
    seeds: int = 3,
    budget: str | Budget | None = None,
    tune: int = 0,
    tune_kl: float | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    reward: str | Callable[..., Any] | None = None,
    best_of: int = 4,
    prompts: int = 256,
    judge: str = "gold",
    measure: str = "",
    also: Sequence[str] = (),
    also_limit: int | None = None,
    frontier: bool = False,
    retry: bool = False,
    progress: Progress = lambda *told: None,
) -> Results:
    """Compare algorithms, by their recipes' or optimizers' names, on equal terms; what `alignzoo compare` does.

    `algorithms` may carry settings, "ppo[optimizer.kl=0.1]"; `task` too, "shop[n_prompts=200]". `budget` is
    "tokens=2e5", "seconds=60" or "flops=1e13", the same for every cell. `tune` trials for each algorithm on each task
    come first, of which the best is taken, or with `tune_kl` the best within that KL. `measure` is a reward, "length",
    that scores the answers to held-out prompts in place of the recipes' own. `also` evaluates the final policies with
    more: a task, a file of pairs, "lm-eval:gsm8k", `also_limit` items of each. `frontier` runs each algorithm under
    several KL weights. `overrides` are every recipe's. Cells run in processes of their own, so `plugins` are files or
    modules, and `reward` is a name or a function of a module. In an `out` that holds part of the comparison only the
    rest is run; `retry` also runs again what has failed. Beside results.json it writes report.html and report.md.
    Raises an AlignzooError that says what to do.
    """
    check_names(algorithms=algorithms, task=task, judge=judge)
    tasks = (task,) if isinstance(task, str) else task
    own = () if reward is None else (reward_override(reward),)
    plan = Plan(
        algorithms=tuple(map(entry, algorithms)),
        tasks=tuple(map(entry, tasks)),
        seeds=seeds,
        budget=read_budget(budget) if isinstance(budget, str) else budget,
        trials=tune,
        trial_kl=tune_kl,
        best_of=best_of,
        prompts=prompts,
        judge=judge,
        measure=measure,
        also=(also,) if isinstance(also, str) else tuple(also),
        also_limit=also_limit,
        overrides=(*own, *overrides),
        plugins=tuple(map(plugin_file, plugins)),
    )
    registry = _registry(plan)
    if frontier:
        plan = replace(plan, algorithms=spread(Grid(plan, registry)))
    executor = executor or Local(jobs)
    return execute(plan, out=out, executor=executor, registry=registry, retry=retry, progress=progress)


def execute(
    plan: Plan,
    *,
    out: str | Path | None = None,
    executor: Executor | None = None,
    registry: Registry | None = None,
    retry: bool = False,
    progress: Progress = lambda *told: None,
) -> Results:
    """Run a plan, or what is left of it."""
    registry = registry or _registry(plan)
    grid = Grid(plan, registry)
    grid.check()
    verdicts = verdicts_of(plan.judge, registry)
    folder = Path(out) if out is not None else api.next_folder("compare")
    with _alone(folder):
        live = Live(grid, folder, lambda so_far, said: _so_far(folder, registry, so_far, said))
        work = _Work(folder / "cells", executor or Local(), retry, progress, live)
        trials, planned = grid.trials(), grid.cells({})
        check_inputs([cell for cell in (*trials, *planned) if not work.is_retried(cell)], folder / "cells", registry)
        work.total = len(trials) + len(planned)
        tried = work.results(trials)
        chosen = _chosen(grid, tried)
        cells = work.results(grid.cells(chosen))
        looks = looks_of(_looked(folder), plan.seeds)
        said: list[dict[str, Any]] = []
        results = analyse(grid, folder, [*tried, *cells], chosen, verdicts, looks, said.append)
        _keep(said, folder / "verdicts.jsonl")
        results.write(folder)
        write_json(folder / "timings.json", _timings(folder, results.cells))
        write_report(folder, registry=registry)
    return results


def _so_far(folder: Path, registry: Registry, results: Results, said: str) -> None:
    """The report of a comparison that goes on."""
    write_json(folder / "timings.json", _timings(folder, results.cells))
    write_report(folder, registry=registry, results=results, going_on=said)


class _Work:
    """The cells of one comparison, finished or to be run."""

    def __init__(self, folder: Path, executor: Executor, retry: bool, progress: Progress, live: Live) -> None:
        self.folder, self.executor, self.retry, self.progress, self.live = folder, executor, retry, progress, live
        self.done = self.total = 0

    def results(self, cells: Sequence[Cell]) -> list[CellResult]:
        """The result of every cell, in order; cells without one are run."""
        todo = [cell for cell in cells if not self._is_done(cell, cells)]
        by_id = {cell.id: cell for cell in todo}
        for cell in todo:
            cell.write(self.folder / cell.id)
        # A finished cell that is to be evaluated with more has its model here, wherever it was trained.
        trained = [cell for cell in todo if finished(self.folder / cell.id) is not None]
        here = self.executor if isinstance(self.executor, Local) else Local()
        rest = [cell for cell in todo if cell not in trained]
        for ended in itertools.chain(here.run(trained, self.folder), self.executor.run(rest, self.folder)):
            folder, cell = self.folder / ended.id, by_id[ended.id]
            result = finished(folder)
            if ended.interrupted and (result is None or evaluations.missing(cell, folder)):
                continue  # it is not over, as is said below
            how = ended.error or "its process left no result"
            result = result or died(cell, folder, how)
            if result.has_figures:
                evaluations.lost(cell, folder, how)
            self._tell(result, cells, new=True)
        results = [finished(self.folder / cell.id) for cell in cells]
        missing = [cell.id for cell, result in zip(cells, results, strict=True) if not self._is_over(cell, result)]
        if missing:
            raise RunError(f"{len(missing)} cells have not ended, {missing[0]} the first: run the same command again")
        return [result for result in results if result is not None]

    def _is_done(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        folder = self.folder / cell.id
        if (folder / "plan.json").exists():
            _check_same(read_cell(folder), cell, folder)
        if self.is_retried(cell):
            shutil.rmtree(folder)
            return False
        result = finished(folder)
        if result is not None:
            check_answers(result, folder)
        if self.retry:
            evaluations.forget_failed(cell, folder)
        if result is None or not self._is_over(cell, result):
            return False
        self._tell(result, cells, new=False)
        return True

    def is_retried(self, cell: Cell) -> bool:
        """Whether a cell has failed, and is to be run again from its beginning."""
        result = finished(self.folder / cell.id) if self.retry else None
        return result is not None and result.status in ("failed", "diverged")

    def _is_over(self, cell: Cell, result: CellResult | None) -> bool:
        """Whether a cell has its result, and every evaluation that is asked for of it."""
        return result is not None and not (result.has_figures and evaluations.missing(cell, self.folder / cell.id))

    def _tell(self, result: CellResult, cells: Sequence[Cell], *, new: bool) -> None:
        self.done += 1
        self.live.tell(result, cells, self.total, new=new)
        self.progress(result, self.done, self.total)


def _check_same(former: Cell, now: Cell, folder: Path) -> None:
    """A folder holds the cells of one plan."""
    if former.also_limit == now.also_limit or not (former.also and now.also):
        former = replace(former, also=now.also, also_limit=now.also_limit)  # it may be evaluated with more
    if former == now:
        return
    differing = [name for name in vars(now) if getattr(former, name) != getattr(now, name)]
    told = "\n".join(f"  {name}: was {getattr(former, name)}, now {getattr(now, name)}" for name in differing)
    raise RunError(f"{folder} is of another comparison; choose another --out:\n{told}")


def _chosen(grid: Grid, tried: Sequence[CellResult]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The overrides of each algorithm's best trial on each task."""
    chosen = {}
    for task in grid.tasks if tried else ():
        for algorithm in grid.plan.algorithms:
            mine = [cell for cell in tried if (cell.task, cell.algorithm) == (task.label, algorithm.label)]
            best = tuning.best(mine, grid.plan.trial_kl)
            chosen[task.label, algorithm.label] = () if best is None else grid.settings(algorithm, task)[best]
    return chosen


def _looked(folder: Path) -> list[int]:
    """The numbers of seeds at which results of this folder were looked at."""
    path = folder / "results.json"
    return looks_in(read_object(path, fix=ANEW), path) if path.exists() else []


def _keep(verdicts: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What a judge has said; no file where gold scores judge."""
    if verdicts:
        write_text(path, "".join(map(line_of, verdicts)))
    else:
        path.unlink(missing_ok=True)


def _timings(folder: Path, cells: Sequence[CellResult]) -> dict[str, Mapping[str, float]]:
    return {cell.id: read_figures(folder / cell.folder / "timing.json") for cell in cells}


def _registry(plan: Plan) -> Registry:
    registry = Registry()
    for path in plan.plugins:
        registry.add_file(path)
    registry.load_all()
    return registry


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One comparison works in a folder at a time."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: give --out a folder")
    others = (
        [] if not folder.exists() or (folder / "cells").is_dir() else sorted(path.name for path in folder.iterdir())
    )
    if set(others) - {LOCK}:
        raise RunError(f"{folder} holds no comparison, but {others[0]}, for one: give --out a folder of its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            yield
    except OSError as error:
        again = "The cells that have ended are safe: when that is mended, the same command with this --out goes on"
        raise RunError(f"{in_words(error)}. {again}") from error


__all__ = ["Entry", "compare", "execute"]
