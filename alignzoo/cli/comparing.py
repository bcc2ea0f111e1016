"""`alignzoo compare`: algorithms on equal terms, over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


@told
def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME... [KEY=VALUE]...",
            help="Recipes or algorithms, also with settings, as in 'ppo[optimizer.kl=0.1]'; overrides of them all.",
        ),
    ],
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="As in shop, or 'shop[n_prompts=200]'; repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each algorithm on each task.")] = 3,
    budget: Annotated[
        str | None, typer.Option(metavar="tokens=N", help="What each run may spend: tokens=, seconds= or flops=.")
    ] = None,
    tune: Annotated[int, typer.Option(min=0, metavar="TRIALS", help="Settings tried first for each algorithm.")] = 0,
    tune_kl: Annotated[
        float | None, typer.Option(min=0, metavar="NATS", help="Choose among the trials within this KL to the start.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write, or to go on; default: runs/compare-NUMBER.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at once.")] = 1,
    executor: Annotated[str, typer.Option(metavar="NAME", help="Where runs execute: local, ray or slurm.")] = "local",
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts of the final evaluation.")] = 256,
    best_of: Annotated[int, typer.Option(min=2, help="Samples per prompt of the best-of-n baseline.")] = 4,
    judge: Annotated[
        str, typer.Option(metavar="JUDGE", help="Who decides which of two answers wins: gold, or a judge's name.")
    ] = "gold",
    measure: Annotated[
        str,
        typer.Option(metavar="REWARD", help="What scores held-out answers, if not the task or the reward trained on."),
    ] = "",
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK|FILE|lm-eval:NAME", help="Evaluate final policies with more; as `evaluate --with`."),
    ] = None,
    also_limit: Annotated[int | None, typer.Option(min=2, help="Only the first so many items of each --also.")] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Run each algorithm under several KL weights.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what has failed or diverged.")] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Also take this Python file as a plugin.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table.")] = False,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Compare algorithms: the same start, prompts, reward, decoding, evaluation and budget for all."""
    from alignzoo.compare import compare as run
    from alignzoo.compare.executors import executor_of
    from alignzoo.runs import api

    algorithms = [name for name in names if "=" not in name.partition("[")[0]]
    overrides = [name for name in names if "=" in name.partition("[")[0]]
    _check_trust(algorithms, task or (), overrides, registry(plugin), trust)
    where = out if out is not None else api.next_folder("compare")
    shown = console(stderr=True)
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
        again = "stopped; what is finished stays so. The same command with --out"
        console(stderr=True).print(f"\n{again} {where} goes on", markup=False, soft_wrap=True)
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
