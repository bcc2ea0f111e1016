"""`alignzoo new NAME --kind KIND`: a package for a plugin of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from alignzoo.cli.common import registry, told
from alignzoo.errors import PluginError
from alignzoo.registry.registrar import KINDS


@told
def new(
    name: Annotated[str, typer.Argument(help="What it will be called by, as in my-algo.")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="optimizer, reward, sampler, policy, task, judge, engine.")
    ] = "optimizer",
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to make the package's folder.")] = Path(),
    licence: Annotated[str, typer.Option(metavar="NAME", help="Apache-2.0, MIT or BSD-3-Clause.")] = "Apache-2.0",
) -> None:
    """Make a package that works at once: a module, its test with the conformance kit, and what it takes to publish."""
    from alignzoo.scaffold import make

    zoo = registry(None)
    if kind in KINDS and zoo.has(kind, name):
        owner = zoo.registration(kind, name).owner
        raise PluginError(f"{kind} {name!r} is taken, by {owner}: choose another name")
    package = make(name, kind, folder, licence)
    sys.stdout.write(f"{package}\n")
    for path in sorted(path for path in package.rglob("*") if path.is_file()):
        sys.stdout.write(f"  {path.relative_to(package)}\n")
    sys.stdout.write(
        f"\nGo on with:\n  cd {package}\n  pip install -e '.[dev]'\n  alignzoo check {kind}:{name}\n  pytest\n"
    )
