"""`alignzoo run`: a recipe or an algorithm from start to end, or on from where it was stopped."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import Debug, NoPlugins, Plugins, Trust, check_trust, console, registry, told
from alignzoo.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

    from alignzoo.data.survey import Survey
    from alignzoo.runs.api import Result, Show
    from alignzoo.training.stage import Warn
    from alignzoo.types import Alert


@told
def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe, an algorithm, a TOML file, or a manifest.json.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in task=sort, schedule.steps=20.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default: runs/RECIPE-NUMBER.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    tracker: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also send metrics to tensorboard, wandb, trackio, ...")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no table: only where the results are.")
    ] = False,
    no_ask: Annotated[
        bool, typer.Option("--no-ask", help="Do not put a question to judges behind an endpoint before the run begins.")
    ] = False,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Run a recipe, or an algorithm by its name on its default task."""
    zoo = registry(plugin, no_plugin)
    zoo.load_all()
    from alignzoo import allocator, processes
    from alignzoo.cli.progress import shown_on
    from alignzoo.recipe import load
    from alignzoo.runs import api

    allocator.keep_freed_memory()
    if resume and out is not None and not out.exists():
        raise RunError(f"{out} holds no run to resume: there is no such folder")
    with processes.together():
        loaded = load(recipe, overrides or (), registry=zoo)
        check_trust(loaded.code, trust)
    if out is None and not resume and processes.count() == 1:
        out = api.next_folder(loaded.name)
    given = {"--plugin": plugin, "--no-plugin": no_plugin, "--tracker": tracker}
    flags = [word for option, values in given.items() for each in values or () for word in (option, str(each))]
    flags += [flag for flag, wanted in (("--trust", loaded.code), ("--no-ask", no_ask)) if wanted]
    again = shlex.join(["alignzoo", "run", recipe, *(overrides or ()), *flags, "--out", str(out), "--resume"])
    try:
        with shown_on(err := console(stderr=True), quiet=quiet) as progress:
            show = (lambda *seen: None) if quiet else example_on(err)
            watching: dict[str, Any] = {"progress": progress, "warn": warning_on(err), "show": show}
            watching["trackers"] = tracker or ()
            result = api.execute(loaded, zoo, out=out, resume=resume, ask=not no_ask, **watching)
    except (api.Interrupted, KeyboardInterrupt) as stopped:
        said = str(stopped) or "stopped at once: what came after the last checkpoint will be done again"
        begun = out is not None and (out / "manifest.json").exists()
        cure = f"{said}. Go on with:\n  {again}" if begun else "stopped before it began"
        if not processes.index():
            console(stderr=True).print(f"\n{cure}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    if not processes.index():
        _print(console(), result, quiet=quiet)


def warning_on(err: Console) -> Warn:
    """Alerts as they come, above the progress bar of the same console."""

    def warn(stage: str, step: int, alert: Alert) -> None:
        err.print(f"warning: {stage}, step {step}: {alert.message}", style="yellow", markup=False, soft_wrap=True)

    return warn


def example_on(err: Console) -> Show:
    """The first row as the model sees it, special tokens and all; what is not trained on is dim."""

    def show(stage: str, found: Survey) -> None:
        from rich.text import Text

        dropped = f", {found.dropped} left out" if found.dropped else ""
        err.print(f"{stage}: {found.rows} rows to train on{dropped}. The first, as the model sees it:", markup=False)
        text = Text("".join(found.prompt), style="dim")
        for token, trained in zip(found.answer, found.trained, strict=True):
            text.append(token, style="not dim bold" if trained else "dim")
        err.print(text if found.answer else text.append("…", style="not dim"), soft_wrap=True)
        for line in found.work.splitlines():
            err.print(f"{stage}: {line}", markup=False, soft_wrap=True)

    return show


def _print(out: Console, result: Result, *, quiet: bool) -> None:
    from alignzoo import report

    if not quiet:
        out.print()
        out.print(report.table(result))
        for stage in result.stages:
            shown = report.samples_shown(result.out, stage.name)
            if shown is not None:
                out.print()
                out.print(shown)
    for stage in result.stages:
        if stage.stopped:
            out.print(f"{stage.name} stopped early, after step {stage.steps}: {stage.stopped}", markup=False)
    places = [(f"{'data' if stage.model.is_file() else 'model'} {stage.name}", stage.model) for stage in result.stages]
    files = {"curves": "curves.png", "results": "result.json", "warnings": "warnings.jsonl"}
    places += [(name, result.out / file) for name, file in files.items()]
    for name, path in places:
        if path.exists():
            out.print(f"{name + ':':<16} {path}", markup=False, soft_wrap=True)
