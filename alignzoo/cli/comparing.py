"""`alignzoo compare`: algorithms on equal terms, over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from alignzoo.cli.common import Debug, Trust, check_trust, console, registry, told

if TYPE_CHECKING:
    from rich.console import Console

    from alignzoo.compare.results import CellResult, Results
    from alignzoo.registry import Registry


ONE = (
    "{} alone is named: it is compared with its controls, the model that it starts from first, and with no other "
    "algorithm. Name a second one for that."
)
"""Told of a comparison of one algorithm."""

STOPPED = "\nstopped; what is finished stays so. The same command with --out {} goes on"

Names: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME... [KEY=VALUE]...",
        help="Recipes or algorithms, also with settings, as in 'ppo[optimizer.kl=0.1]'; overrides of them all.",
    ),
]
Task: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="TASK", help="As in shop, or 'shop[n_prompts=200]'; repeatable.")
]
Budget: TypeAlias = Annotated[
    str | None, typer.Option(metavar="tokens=N", help="What each run may spend: tokens=, seconds= or flops=.")
]
Tune: TypeAlias = Annotated[int, typer.Option(min=0, metavar="TRIALS", help="Settings tried first for each algorithm.")]
TuneKL: TypeAlias = Annotated[
    float | None, typer.Option(min=0, metavar="NATS", help="Choose among the trials within this KL to the start.")
]
Out: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where to write, or to go on; default: runs/compare-NUMBER.")
]
Executor: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="Where runs execute: local, ray or slurm.")]
BestOf: TypeAlias = Annotated[int, typer.Option(min=2, help="Samples per prompt of the best-of-n baseline.")]
Judge: TypeAlias = Annotated[
    str, typer.Option(metavar="JUDGE", help="Who decides which of two answers wins: gold, or a judge's name.")
]
Measure: TypeAlias = Annotated[
    str,
    typer.Option(metavar="REWARD", help="What scores held-out answers, if not the task or the reward trained on."),
]
Also: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK|FILE|lm-eval:NAME", help="Evaluate final policies with more; as `evaluate --with`."),
]
AlsoLimit: TypeAlias = Annotated[int | None, typer.Option(min=2, help="Only the first so many items of each --also.")]
PluginFiles: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Also take this Python file as a plugin.")
]


@told
def compare(
    names: Names,
    task: Task = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each algorithm on each task.")] = 3,
    budget: Budget = None,
    tune: Tune = 0,
    tune_kl: TuneKL = None,
    out: Out = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once.")] = 1,
    executor: Executor = "local",
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts of the final evaluation.")] = 256,
    best_of: BestOf = 4,
    judge: Judge = "gold",
    measure: Measure = "",
    also: Also = None,
    also_limit: AlsoLimit = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Run each algorithm under several KL weights.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what has failed or diverged.")] = False,
    plugin: PluginFiles = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table.")] = False,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Compare algorithms: the same start, prompts, reward, decoding, evaluation and budget for all."""
    from alignzoo.compare import compare as run
    from alignzoo.compare.executors import executor_of
    from alignzoo.runs import api

    overrides = [name for name in names if "=" in name.partition("[")[0]]
    algorithms = [name for name in names if name not in overrides]
    _check_trust(algorithms, task or (), overrides, registry(plugin), trust)
    where, shown = out or api.next_folder("compare"), console(stderr=True)
    if len(algorithms) == 1 and not quiet:
        shown.print(ONE.format(algorithms[0]), markup=False, soft_wrap=True)
    try:
        results = run(
            *algorithms,
            overrides=overrides,
            task=task or (),
            seeds=seeds,
            budget=budget,
            tune=tune,
            tune_kl=tune_kl,
            out=where,
            executor=executor_of(executor, jobs),
            plugins=plugin or (),
            best_of=best_of,
            prompts=prompts,
            judge=judge,
            measure=measure,
            also=also or (),
            also_limit=also_limit,
            frontier=frontier,
            retry=retry,
            progress=_progress(shown, quiet, where),
        )
    except KeyboardInterrupt:
        shown.print(STOPPED.format(where), markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    _print(console(), results, where, quiet)


def _check_trust(
    algorithms: Sequence[str], tasks: Sequence[str], overrides: Sequence[str], zoo: Registry, trust: bool
) -> None:
    """Raise where the file of one of the recipes names code."""
    from alignzoo.compare.grid import Grid
    from alignzoo.compare.plan import Plan, entry

    zoo.load_all()
    plan = Plan(tuple(map(entry, algorithms)), tuple(map(entry, tasks)), overrides=tuple(overrides))
    if not plan.algorithms:
        return  # the comparison says so
    grid = Grid(plan, zoo)
    for task in grid.tasks:
        for each in plan.algorithms:
            check_trust(grid.recipe(each, task).code, trust)


def _progress(out: Console, quiet: bool, folder: Path) -> Callable[[CellResult, int, int], None]:
    from alignzoo.compare.live import about, read_progress

    def tell(cell: CellResult, done: int, total: int) -> None:
        value = next(
            (
                f"{name} {cell.after[name]:.3g}"
                for name in ("gold", "accuracy", "reward", "preference")
                if name in cell.after
            ),
            "",
        )
        ended = value if cell.status == "ok" else f"{cell.status}: {cell.error or cell.stopped}"
        left = read_progress(folder)["left"] if done < total else None
        ahead = f"  ({about(left)} left)" if isinstance(left, float) else ""
        out.print(f"[{done}/{total}] {cell.id}  {ended}{ahead}", markup=False, soft_wrap=True)

    return (lambda *told: None) if quiet else tell


def _print(out: Console, results: Results, folder: Path, quiet: bool) -> None:
    from alignzoo.compare.table import tables

    if not quiet:
        for each in tables(results, folder):
            out.print(each)
        out.print()
    for name, file in (("results:", "results.json"), ("report:", "report.html")):
        out.print(f"{name:<16} {folder / file}", markup=False, soft_wrap=True)
