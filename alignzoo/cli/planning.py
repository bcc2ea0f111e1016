"""`alignzoo plan`: what a run will take, before it is run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignzoo.cli.common import AsJson, Debug, Plugins, Trust, check_trust, console, registry, told
from alignzoo.errors import RunError

if TYPE_CHECKING:
    from alignzoo.planning.estimate import StagePlan


@told
def plan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe, an algorithm, a TOML file, or a manifest.json.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in task=sort, schedule.steps=20.")
    ] = None,
    length: Annotated[
        int, typer.Option(min=0, metavar="TOKENS", help="Length of a generated completion; default: its limit.")
    ] = 0,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Time a small model on this machine.")] = True,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Plan for a device of so much memory, as 80GB; it need not be here.")
    ] = "",
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Plan for this kind of device.")] = "",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Of a model directory: GPUs that its weights are sharded over; default 1.")
    ] = None,
    micro_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a model directory: tokens of a micro-batch; default 16384.")
    ] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
    trust: Trust = False,
    debug: Debug = False,
) -> None:
    """Estimate memory and time of a run: bytes by part, whether they fit, operations, and seconds per step.

    Where RECIPE is a model's directory, of which config.json is enough: the bytes of each of --gpus GPUs by what is
    trained of it, and what to change where they do not suffice."""
    sized = (Path(recipe) / "config.json").is_file()
    if sized:
        given = {"KEY=VALUE": overrides, "--length": length, "--device": device}
    else:
        given = {"--gpus": gpus, "--micro-tokens": micro_tokens}
    _check_read(recipe, sized, [name for name, value in given.items() if value])
    zoo = registry(plugin)
    zoo.load_all()
    from alignzoo.machine import Machine, bytes_of

    if sized:
        from alignzoo.cli.sizing import tell

        gigabytes = bytes_of(memory) / 1e9 if memory else 80.0
        tell(zoo, recipe, gpus=gpus or 1, gigabytes=gigabytes, tokens=micro_tokens or 16_384, as_json=as_json)
        return
    from alignzoo.planning.estimate import plan as plan_recipe
    from alignzoo.recipe import load

    _check_device(device, memory)
    machine = Machine(device, bytes_of(memory) if memory else 0)
    loaded = load(recipe, overrides or (), registry=zoo)
    check_trust([each for each in loaded.code if each.kind == "policy"], trust)  # no reward is asked here
    plans = plan_recipe(loaded, length=length, timed=time, machine=machine)
    if as_json:
        told_plans = [asdict(each) | {"fits": each.fits} for each in plans]
        sys.stdout.write(json.dumps({"stages": told_plans}, indent=2) + "\n")
        return
    for each in plans:
        _print(each)


def _check_read(recipe: str, sized: bool, unread: list[str]) -> None:
    """Raise RunError for options that the kind of plan does not read: the sizes of a model's directory, or a recipe."""
    if not unread:
        return
    if sized:
        fix = "plan what trains it, as in `alignzoo plan dpo policy.model=DIR`, or leave them out"
        raise RunError(f"{recipe} is a model's directory, whose plan does not read {', '.join(unread)}: {fix}")
    fix = "give the directory of its model instead, or schedule.micro_tokens=N"
    raise RunError(f"the plan of a recipe does not read {', '.join(unread)}, which are for a model's directory: {fix}")


def _check_device(device: str, memory: str) -> None:
    """Raise RunError for a kind of device that there is not, or one whose memory nobody has said."""
    if device not in ("", "cpu", "cuda"):
        raise RunError(f"--device: found {device!r}, allowed: cpu or cuda")
    if device == "cuda" and not memory:
        raise RunError("--device cuda plans for a GPU that need not be here: say how large it is, as in --memory 80GB")


def _print(plan: StagePlan) -> None:
    from rich.table import Table

    out = console()
    shape = plan.shape
    out.print(f"[bold]{plan.name}[/bold]  ({plan.optimizer}, {plan.steps} steps, on {plan.device})")
    head = "tied head" if shape.tied else "head of its own"
    out.print(
        f"{_count(shape.parameters)} parameters, {_count(shape.trained)} trained; {shape.layers} layers of "
        f"{shape.hidden}, {shape.heads} heads ({shape.kv_heads} for keys), vocabulary {shape.vocab}, {head}"
    )
    written = f"{plan.generated:,} tokens generated and " if plan.generated else ""
    out.print(f"a step: {written}{plan.trained:,} tokens trained on\n")
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("memory")
    rows.add_column("MB", justify="right")
    for name, size in plan.bytes.items():
        if size:
            rows.add_row(name, f"{size / 1e6:,.0f}")
    rows.add_row("[bold]peak[/bold]", f"[bold]{plan.peak / 1e6:,.0f}[/bold]")
    rows.add_row("available", f"{plan.available / 1e6:,.0f}")
    out.print(rows)
    out.print()
    phases = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("a step", "GFLOP", "seconds", "GFLOP/s"):
        phases.add_column(title, justify="left" if title == "a step" else "right")
    for phase, count in plan.operations.items():
        phases.add_row(phase, *_cells(count, plan.seconds.get(phase)))
    total = sum(plan.seconds.values()) if plan.seconds else None
    phases.add_row("[bold]total[/bold]", *_cells(sum(plan.operations.values()), total))
    out.print(phases)
    out.print(f"\n{plan.evaluation}", highlight=False)
    if total:
        evaluated = plan.evaluation_seconds
        shared = f"{_duration(total * plan.steps)} for {plan.steps} steps and {_duration(evaluated)} for evaluations"
        out.print(f"about {_duration(total * plan.steps + evaluated)}: {shared}")
    if plan.disk:
        kept = ", ".join(f"{name} {_size(size)}" for name, size in plan.disk.items())
        out.print(f"on the disk: {kept}; checkpoints are deleted when the stage has finished")
    if plan.fits:
        out.print("It fits.\n")
        return
    out.print("[bold red]It does not fit.[/bold red] What would take less:")
    for each in plan.advice:
        out.print(f"  {each}")
    if not plan.advice:
        out.print("  a smaller model, or shorter texts")
    out.print()


def _cells(count: int, seconds: float | None) -> tuple[str, str, str]:
    if not seconds:
        return f"{count / 1e9:,.2f}", "", ""
    return f"{count / 1e9:,.2f}", f"{seconds:,.3f}", f"{count / seconds / 1e9:,.1f}"


def _size(number: float) -> str:
    """12.3 MB; 1.23 GB."""
    return f"{number / 1e6:,.1f} MB" if number < 1e8 else f"{number / 1e9:,.2f} GB"


def _count(number: int) -> str:
    for limit, unit in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
