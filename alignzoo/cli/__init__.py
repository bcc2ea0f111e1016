"""The command line: `alignzoo list`, `show`, `check`, `run`, ... Each imports torch only when it needs it."""

from __future__ import annotations

import typer

from alignzoo.cli.checking import check
from alignzoo.cli.choosing import choose
from alignzoo.cli.comparing import compare
from alignzoo.cli.doctoring import doctor
from alignzoo.cli.evaluating import evaluate
from alignzoo.cli.examining import judge_report
from alignzoo.cli.exporting import export
from alignzoo.cli.generating import generate
from alignzoo.cli.installed import add_installed
from alignzoo.cli.listing import list_plugins
from alignzoo.cli.making import new
from alignzoo.cli.planning import plan
from alignzoo.cli.running import run
from alignzoo.cli.showing import show
from alignzoo.cli.watching import watch

app = typer.Typer(
    help="A zoo of algorithms that align language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("list")(list_plugins)
app.command("show")(show)
app.command("choose")(choose)
app.command("check")(check)
app.command("doctor")(doctor)
app.command("new")(new)
app.command("plan")(plan)
app.command("run")(run)
app.command("compare")(compare)
app.command("watch")(watch)
app.command("evaluate")(evaluate)
app.command("generate")(generate)
app.command("export")(export)
app.command("judge-report")(judge_report)
add_installed(app, {str(each.name) for each in app.registered_commands})


def main() -> None:
    """The console script."""
    app(prog_name="alignzoo")


__all__ = ["app", "main"]
