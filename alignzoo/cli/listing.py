"""`alignzoo list`: everything that plugins have registered, without importing them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from alignzoo.cli.common import AsJson, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.printable import printable

if TYPE_CHECKING:
    from alignzoo.registry import Registry
    from alignzoo.registry.registrar import Registration

COLUMNS = 80
"""Columns of a terminal on which a line of the list fits."""


@told
def list_plugins(
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only optimizers, rewards, ...")] = None,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="Only optimizers of a family, and their variants.")
    ] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option("--needs", metavar="COLUMN", help="Only optimizers that need it: values, ref_logprobs, ref, ..."),
    ] = None,
    online: Annotated[
        bool | None, typer.Option("--online/--offline", help="Only optimizers that sample, or that are given answers.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SHAPE", help="Only optimizers made for pairs, rankings, labels, ..."),
    ] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
) -> None:
    """List what there is: algorithms, policies, samplers, rewards, judges, tasks and recipes."""
    zoo = registry(plugin, no_plugin)
    listed = zoo.list(kind)
    if family is not None:
        listed = [each for each in _of_family(zoo.list(), family) if kind in (None, each.kind)]
    if needs or online is not None or data is not None:
        listed = [each for each in listed if each.kind == "optimizer"]
        listed = _declaring(zoo, listed, needs or (), online, data)
    if as_json:
        failures = [asdict(each) for each in zoo.failures]
        sys.stdout.write(
            json.dumps({"plugins": [asdict(each) for each in listed], "failures": failures}, indent=2) + "\n"
        )
        return
    if not listed:
        sys.stdout.write("nothing is listed that is all of this\n")
    _print(listed)
    for each in listed:
        if each.conflicts:
            sys.stdout.write(
                f"\nconflict: {each.kind} {' or '.join(map(repr, each.names))} of {each.owner} is also registered by "
                f"{' and '.join(each.conflicts)}.\n"
                f"  Write {f'{each.plugin}/{each.name}'!r}, or uninstall one of them.\n"
            )
    for failure in zoo.failures:
        sys.stdout.write(printable(f"\nfailed: {failure.owner}: {failure.last_line}\n  {failure.cure}\n"))


def _declaring(
    zoo: Registry, listed: Sequence[Registration], needs: Sequence[str], online: bool | None, data: str | None
) -> list[Registration]:
    """The optimizers that declare all this; their classes are loaded for it."""
    from alignzoo import columns
    from alignzoo.cli import fitting
    from alignzoo.registry.registrar import needs_of
    from alignzoo.traits import traits_of

    if data is not None:
        fitting.check_shape(data)
    found, known = [], set()
    for each in listed:
        part = zoo.get(each.kind, f"{each.plugin}/{each.name}")
        own, traits = needs_of(part), traits_of(part)
        words = {*own, *(name.partition(":")[0] for name in own), *columns.roles(own)}
        known |= words
        fits = {*needs} <= words and online in (None, traits.online)
        if fits and (data is None or fitting.fits_shape(traits, own, data)):
            found.append(each)
    for word in {*needs} - known:
        raise PluginError(f"--needs {word}: no optimizer needs it. {did_you_mean(word, known)}")
    return found


def _of_family(everything: Sequence[Registration], family: str) -> list[Registration]:
    """The optimizers of a family, and what is a variant of one of them."""
    families = {each.family for each in everything if each.family}
    if family not in families:
        raise PluginError(f"there is no family {family!r}. {did_you_mean(family, families)}")
    found = [each for each in everything if each.family == family]
    names = {name for each in found for name in each.names}
    return found + [each for each in everything if each.variant_of in names and each not in found]


def _print_optimizers(listed: Sequence[Registration]) -> None:
    """Optimizers by their families, each with its variants beneath it."""
    from rich.text import Text

    out = console()
    optimizers = [each for each in listed if each.kind == "optimizer"]
    roots = {(each.kind, each.plugin, each.name): _root(each, optimizers) for each in listed}
    tops = [each for each in optimizers if _root(each, optimizers) is each]
    out.print(Text("optimizers", style="bold"))
    for family in sorted({each.family for each in tops}, key=lambda name: (not name, name)):
        out.print(Text(f"  {family or 'without a family'}", style="bold"))
        lines: list[tuple[str, Registration]] = []
        for top in (each for each in tops if each.family == family):
            variants = [e for e in listed if e is not top and roots[e.kind, e.plugin, e.name] is top]
            lines += [(" " * 4 + _called(top), top), *((" " * 6 + _called(each), each) for each in variants)]
        width = _width(lines)
        for name, each in lines:
            said = ("" if each.kind == "optimizer" else f"{each.kind}: ") + each.summary
            whose = f"  {owner}" if (owner := _whose(each)) else ""
            begins = f"{name.ljust(width)}  "
            for piece in Text.assemble(said, (whose, "dim")).wrap(out, out.width - len(begins)):
                out.print(Text.assemble((begins, "cyan"), piece), no_wrap=True)
                begins = " " * len(begins)
    out.print()


def _called(each: Registration) -> str:
    return f"{each.plugin}/{each.name}" if each.conflicts else each.name


def _width(lines: Sequence[tuple[str, Registration]]) -> int:
    """How wide a family's names stand, so that alignzoo's own summaries have room; a longer name pushes its own."""
    own = [len(each.summary) for _, each in lines if each.kind == "optimizer" and not _whose(each)]
    return max(18, min(max(len(name) for name, _ in lines), COLUMNS - 2 - max(own, default=0)))


def _whose(each: Registration) -> str:
    """The distribution of a third party's; empty where it is alignzoo's."""
    return "" if each.distribution == "alignzoo" else f"{each.distribution} {each.version}".strip() or each.plugin


def _root(each: Registration, optimizers: Sequence[Registration]) -> Registration:
    """The optimizer beneath which it is listed: itself, where it is a variant of none that is listed."""
    path = [each]
    while base := next((other for other in optimizers if path[-1].variant_of in other.names), None):
        if base in path:
            return each
        path.append(base)
    return path[-1]


def _print(listed: Sequence[Registration]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for kind in dict.fromkeys(each.kind for each in listed):
        if kind == "optimizer":
            _print_optimizers(listed)
            continue
        rows = Table(box=None, title=f"{kind}s" if kind != "policy" else "policies", title_justify="left", expand=True)
        rows.title_style, rows.show_header, rows.pad_edge = "bold", False, False
        rows.add_column(no_wrap=True, min_width=18)
        rows.add_column(ratio=1)
        rows.add_column(no_wrap=True, style="dim")
        for each in listed:
            if each.kind == kind:
                name = f"{each.plugin}/{each.name}" if each.conflicts else each.name
                rows.add_row(Text(f"  {name}", style="cyan"), Text(each.summary), Text(_whose(each)))
        out.print(rows)
        out.print()
