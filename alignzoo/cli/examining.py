"""`alignzoo judge-report`: what a judge is worth, before it may train anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import Debug, Plugins, console, registry, told
from alignzoo.errors import RecipeError

if TYPE_CHECKING:
    from alignzoo.judging.pairs import Pair
    from alignzoo.recipe.tables import Node
    from alignzoo.registry import Registry

KEYS = ("judge", "data", "task", "annotators", "examine", "bars")


@told
def judge_report(
    judge: Annotated[str, typer.Argument(metavar="JUDGE", help="A judge of `alignzoo list`.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="data=FILE or task=NAME; judge.KEY, data.KEY; annotators=[COLUMN, ...]; "
            "examine.criterion, name, repeats, probes, padding, resamples, seed; "
            "bars.consistent, repeatable, padded, length, kappa, unanswered.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default: runs/judge-report-NUMBER.")
    ] = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Evaluate a judge on labelled pairs: consistency, length bias, agreement with people; is it fit to train?"""
    zoo = registry(plugin)
    zoo.load_all()
    from alignzoo import Context, recipe, report
    from alignzoo.judging.examine import Examiner
    from alignzoo.judging.fitness import Bars, fitness
    from alignzoo.lifecycle import opened
    from alignzoo.runs import api
    from alignzoo.storage import write_json

    tables = recipe.tables(settings or (), KEYS)
    bars = recipe.settings_of(Bars, tables.get("bars"), "bars")
    examiner = recipe.settings_of(Examiner, tables.get("examine"), "examine")
    asked = recipe.named_part(zoo, "judge", judge, tables.get("judge"))
    pairs = _pairs(zoo, tables)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is there already: choose another --out")
    telling = console(stderr=True).status(f"asking {judge} about {len(pairs)} pairs")
    with telling, opened(asked, Context("judge-report")) as judging:
        found = examiner.examine(judging, pairs)
    finding = fitness(found, bars)
    folder = out or api.next_folder("judge-report")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"judge": judge, "settings": settings or [], "fit": finding.fit, "reasons": finding.reasons}
    whole = about | {"bars": asdict(bars), "examine": asdict(examiner)} | asdict(found)
    write_json(folder / "judge-report.json", whole)
    report.examination_picture(found, bars, finding, folder / "judge-report.png")
    shown = console()
    shown.print(report.examination_table(found, bars, finding))
    for name, file in (("picture", "judge-report.png"), ("figures", "judge-report.json")):
        shown.print(f"{name + ':':<9} {folder / file}", markup=False, soft_wrap=True)


def _pairs(zoo: Registry, tables: dict[str, Node]) -> list[Pair]:
    """The labelled pairs of a file, or of a task's held-out comparisons."""
    from alignzoo import recipe
    from alignzoo.data import Data, read
    from alignzoo.judging.pairs import pairs_of
    from alignzoo.recipe.parts import checked

    annotators: Any = checked(list[str], tables["annotators"], "annotators") if "annotators" in tables else ()
    if ("data" in tables) == ("task" in tables):
        raise RecipeError("a judge is examined on labelled pairs: give data=FILE or task=NAME, one of the two")
    if "data" in tables:
        return pairs_of(read(recipe.settings_of(Data, tables["data"], "data")), annotators)
    table = tables["task"]
    task = recipe.named_part(zoo, "task", str(table.value["name"].value) if table.is_table else "", table)
    return pairs_of(task.data("comparisons", "heldout"), annotators)
