"""Commands that plugins bring: entry points of the group `alignzoo.commands`, a function or a group of them each."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from alignzoo.calling import kept
from alignzoo.cli.common import fail

GROUP = "alignzoo.commands"
"""The entry points' group. A name is the command's; what it names is a function as typer knows them, or a Typer."""

DEFAULT = "open"
"""The command of a group that is meant where its first word is none of its commands."""


class WithDefault(TyperGroup):
    """A group of commands of which one need not be named: `alignzoo label FILE` is `alignzoo label open FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and DEFAULT in self.commands and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def add_installed(app: typer.Typer, taken: set[str]) -> None:
    """Add what plugins bring. One that cannot be imported says so when it is called, and hides no other; one whose
    name is taken is refused in the same way."""
    seen: dict[str, str] = dict.fromkeys(taken, "alignzoo")
    for point in _points():
        owner = point.dist.name if point.dist else "?"
        if point.name in seen:
            message = f"the command {point.name!r} of {owner} is {seen[point.name]}'s already: uninstall one of them"
            if point.name not in taken:
                app.command(point.name, hidden=True)(_refused(message))
            continue
        seen[point.name] = owner
        target = _target(point, owner)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=point.name, cls=WithDefault)
        else:
            app.command(point.name)(target)


def _points() -> Iterator[importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points(group=GROUP)
    yield from sorted(points, key=lambda point: (not point.value.startswith("alignzoo_"), point.name, point.value))


def _target(point: importlib.metadata.EntryPoint, owner: str) -> Any:
    with kept() as failed:  # told by whoever calls the command
        return point.load()
    return _refused(
        f"the command {point.name!r} of {owner} cannot be imported: {type(failed.error).__name__}: {failed.error}. "
        "Install it again, or uninstall it"
    )


def _refused(message: str) -> Any:
    def refused() -> None:
        fail(message)

    refused.__doc__ = "(cannot be imported)"
    return refused
