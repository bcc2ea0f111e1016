"""What the commands share: the registry, the console, and how errors are told."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeAlias, TypeVar

import typer

from alignzoo import surroundings
from alignzoo.errors import AlignzooError, RecipeError
from alignzoo.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from alignzoo.recipe.trust import Code
    from alignzoo.registry import Registry

P = ParamSpec("P")
R = TypeVar("R")

WIDTH = 100
"""Columns of what is written into a log."""

LINES = 22
"""An error fits on a screen: longer ones lose their middle."""

Plugins: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Also take this Python file as a plugin.")
]
NoPlugins: TypeAlias = Annotated[
    list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Ignore this plugin.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON.")]
Trust: TypeAlias = Annotated[
    bool, typer.Option("--trust", help="Run the code that the recipe's own file names: read it first.")
]
Debug: TypeAlias = Annotated[bool, typer.Option("--debug", help="Show an error's traceback, too.")]


def told(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors are told in words, with exit status 1: a traceback means a bug of ours, or --debug."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _plain_warnings(), surroundings.exits_told():
                return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # who reads our output has seen enough: typer ends in silence
        except (AlignzooError, OSError) as error:
            if kwargs.get("debug"):
                raise
            if isinstance(error, AlignzooError):
                fail("\n".join([str(error), *getattr(error, "__notes__", ())]))
            from alignzoo.storage import in_words

            fail(in_words(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except SystemExit as error:  # no command ends so: a plugin, or what it calls
            if kwargs.get("debug"):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            *_, last = (each for each in frames if each.filename != surroundings.__file__)
            where = f"{last.filename}, line {last.lineno},"
            fail(f"{where} ended the program with status {error.code!r}: --debug shows why")

    return run


def fail(message: str) -> NoReturn:
    """Say what is wrong, and end with status 1. Of several processes the first that fails tells it."""
    if "WORLD_SIZE" in os.environ:
        from alignzoo import processes

        if processes.heard():
            raise typer.Exit(1)
        message = f"process {processes.index()}: {message}" if processes.index() else message
    lines = message.split("\n")
    if len(lines) > LINES:
        half = LINES // 2
        lines = [*lines[:half], f"... ({len(lines) - 2 * half} lines; --debug shows all)", *lines[-half:]]
    sys.stderr.write(printable("error: " + "\n".join(lines)) + "\n")
    raise typer.Exit(1)


def registry(
    plugins: Sequence[Path] | None, without: Sequence[str] | None = None, warn: Callable[[str], None] | None = None
) -> Registry:
    """Every installed plugin but those `without` names, and these files."""
    from alignzoo.registry import Registry

    found = Registry(without=without or (), warn=warn or _warn)
    for path in plugins or ():
        found.add_file(path)
    return found


def check_trust(code: Sequence[Code], trust: bool) -> None:
    """Raise where a recipe's file names code that the command line does not."""
    if code and not trust:
        named = "".join(f"\n  {each}" for each in code)
        raise RecipeError(
            f"this recipe would run code that its file names, and the command line does not:{named}\n"
            "Read that code, and give --trust to run it; or name it on the command line, as KEY=VALUE"
        )


def console(*, stderr: bool = False) -> Console:
    """A console; as wide as the terminal, or `WIDTH` in a log."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        """What is printed may be others' text: of control characters only rich's own reach the terminal."""

        def on_broken_pipe(self) -> None:
            """rich would end the program by SystemExit; so it ends in silence, as every BrokenPipeError does."""
            raise

        def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*what, **how):
                yield Segment(text if control else printable(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    return Plain(file=stream, highlight=False, width=None if stream.isatty() else WIDTH)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as a sentence, not as a line of source; none of what other libraries will rename one day. Of several
    processes, which read the same data, the first one's alone are shown."""
    former = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **more: printable(f"warning: {message}\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning if os.environ.get("RANK", "0") == "0" else Warning)
            yield
    finally:
        warnings.formatwarning = former
