"""`alignzoo watch`: a page with the curves, samples and warnings of what is running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignzoo.cli.common import Debug, console, told
from alignzoo.errors import RunError


@told
def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's or a comparison's folder.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where to listen; default 8766, if free.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Serve a page on this machine that shows a run or a comparison while it goes on; Ctrl-C ends the page alone."""
    from alignzoo.watch.server import Watching

    if not folder.is_dir():
        raise RunError(f"{folder} is no folder: give the one that `alignzoo run` or `alignzoo compare` writes to")
    page = Watching(folder, port)
    console().print(page.link, markup=False, soft_wrap=True)
    if show:
        import webbrowser

        webbrowser.open(page.link)
    page.run()
