"""`alignzoo list`: everything that plugins have registered, without importing them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from alignzoo.cli.common import AsJson, NoPlugins, Plugins, console, registry, told
from alignzoo.printable import printable

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registration


@told
def list_plugins(
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only optimizers, rewards, ...")] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
) -> None:
    """List what there is: algorithms, policies, samplers, rewards, judges, tasks and recipes."""
    zoo = registry(plugin, no_plugin)
    listed = zoo.list(kind)
    if as_json:
        failures = [asdict(each) for each in zoo.failures]
        sys.stdout.write(
            json.dumps({"plugins": [asdict(each) for each in listed], "failures": failures}, indent=2) + "\n"
        )
        return
    _print(listed)
    for each in listed:
        if each.conflicts:
            sys.stdout.write(
                f"\nconflict: {each.kind} {each.name!r} of {each.owner} is also registered by "
                f"{' and '.join(each.conflicts)}.\n"
                f"  Write {f'{each.plugin}/{each.name}'!r}, or uninstall one of them.\n"
            )
    for failure in zoo.failures:
        sys.stdout.write(printable(f"\nfailed: {failure.owner}: {failure.last_line}\n  {failure.cure}\n"))


def _print(listed: Sequence[Registration]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for kind in dict.fromkeys(each.kind for each in listed):
        rows = Table(box=None, title=f"{kind}s" if kind != "policy" else "policies", title_justify="left", expand=True)
        rows.title_style, rows.show_header, rows.pad_edge = "bold", False, False
        rows.add_column(no_wrap=True, width=18)
        rows.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        rows.add_column(no_wrap=True, style="dim")
        for each in listed:
            if each.kind == kind:
                where = f"{each.distribution} {each.version}".strip() or each.plugin
                name = f"{each.plugin}/{each.name}" if each.conflicts else each.name
                rows.add_row(Text(f"  {name}", style="cyan"), Text(each.summary), Text(where))
        out.print(rows)
        out.print()
