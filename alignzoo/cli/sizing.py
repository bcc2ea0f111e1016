"""`alignzoo plan DIRECTORY`: what each GPU holds while a model is trained, without a recipe."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from alignzoo.cli.common import console
from alignzoo.errors import RunError

if TYPE_CHECKING:
    from alignzoo.planning.cluster import GPUPlan, Training
    from alignzoo.registry import Registry

POLICY = "hf"
"""The policy that reads model directories."""


def tell(zoo: Registry, directory: str, *, gpus: int, gigabytes: float, tokens: int, as_json: bool) -> None:
    """Print a row for each way to train the model, and what would make those fit that do not."""
    from alignzoo.interfaces import HasSizes
    from alignzoo.planning.cluster import Training, plan_gpu

    spec = zoo.get("policy", POLICY)(model=directory)
    if not isinstance(spec, HasSizes):
        raise RunError(f"the policy {POLICY!r} does not know a model's sizes without loading it: give a recipe")
    shape = spec.sizes()
    ways: dict[str, Training] = {}
    for recompute in (False, True):
        again = ", recomputed" if recompute else ""
        for trained in ("full", "lora", "qlora"):
            one = Training(shape, gpus, trained=trained, recompute=recompute, tokens=tokens)
            ways[f"{trained}{again}"] = one
        ways[f"full with a critic{again}"] = Training(shape, gpus, critic=True, recompute=recompute, tokens=tokens)
    plans = {name: plan_gpu(training, gigabytes) for name, training in ways.items()}
    if as_json:
        rows = {name: {**each.parts, "peak": each.peak, "fits": each.fits, "wire": dict(each.wire)}
                for name, each in plans.items()}  # fmt: skip
        sys.stdout.write(json.dumps({"gpus": gpus, "gigabytes": gigabytes, "bytes": rows}, indent=2) + "\n")
        return
    _print(plans, gigabytes)


def _print(plans: dict[str, GPUPlan], gigabytes: float) -> None:
    from rich.table import Table

    from alignzoo.planning.cluster import advice

    out = console()
    first = next(iter(plans.values())).training
    out.print(
        f"{first.shape.parameters / 1e9:.3g} billion parameters on {first.gpus} GPU{'s' * (first.gpus > 1)} of "
        f"{gigabytes:g} GB, {first.tokens:,} tokens at once; GB of each GPU:\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trained")
    for title in ("weights", "gradients, AdamW", "reference", "gathered", "tokens", "peak", ""):
        table.add_column(title, justify="right")
    for name, plan in plans.items():
        held = [("weights",), ("gradients", "adamw"), ("reference",), ("gathered layers",), ("activations", "logits")]
        sums = [f"{sum(plan.parts[part] for part in each) / 1e9:,.1f}" for each in held]
        table.add_row(name, *sums, f"[bold]{plan.peak / 1e9:,.1f}[/bold]", "fits" if plan.fits else "does not fit")
    out.print(table)
    for name, plan in plans.items():
        if plan.fits or "recomputed" in name:
            continue
        out.print(f"\n[bold]{name}[/bold] does not fit. What would take less:")
        for change, other in advice(plan.training, gigabytes):
            out.print(f"  {change}: {other.peak / 1e9:,.1f} GB" + (", fits" if other.fits else ", still too much"))
    wire = next(iter(plans.values())).wire
    if wire:
        told = "; ".join(f"{size / 1e9:,.1f} GB {when}" for when, size in wire.items() if size)
        out.print(f"\nfull: a GPU receives {told}")
