"""`alignzoo evaluate MODEL --with ... --against BASE`: a model on items from outside its run, beside another one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import AsJson, Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import NoScorer, RecipeError

if TYPE_CHECKING:
    from alignzoo.compare.outside import Line
    from alignzoo.evaluation.outside import Measured
    from alignzoo.registry import Registry

JUDGE = "judge:"


@told
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's directory, a reward model's, or judge:NAME[key=value] for pairs."
        ),
    ],
    by: Annotated[
        list[str],
        typer.Option(
            "--with", metavar="TASK|FILE|lm-eval:NAME", help="A task, a file of pairs, or a task of the LM harness."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(metavar="BASE", help="Another one, on the same items: differences are paired.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only the first so many items of each.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length limit of an answer; default 128.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write every item, and evaluation.json.")
    ] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Evaluate a model on a task, on pairs of answers, or by the LM Evaluation Harness; and beside another model."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is there already: choose another --out")
    zoo = registry(plugin, no_plugin)
    if twice := next((each for each in by if by.count(each) > 1), None):
        raise RecipeError(f"--with {twice} is given twice: once is enough")
    kinds = {each: _kind(zoo, each, model) for each in by}
    if max_new_tokens is not None and "task" not in kinds.values():
        raise RecipeError(
            "--max-new-tokens bounds the answers to a task's prompts, and no --with is a task: leave it out, as it has "
            "no effect"
        )
    from alignzoo.compare.outside import lines

    def measured(which: str) -> list[Measured]:
        settings = {"max_new_tokens": max_new_tokens}
        return [_measured(zoo, which, against, each, kinds[each], limit, settings) for each in by]

    found, base = measured(model), [] if against is None else measured(against)
    made = lines(found, base)
    if out is not None:
        _write(out, model, against, found, base, made)
    if as_json:
        sys.stdout.write(json.dumps([asdict(each) for each in made], indent=2, ensure_ascii=False) + "\n")
        return
    _print(made, model, against, found)
    if out is not None:
        console().print(f"items: {out / 'items.jsonl'}", markup=False, soft_wrap=True)


def _kind(zoo: Registry, name: str, model: str) -> str:
    """What `--with` names: a task of the harness, a task of the zoo, or a file of pairs."""
    from alignzoo.evaluation.outside import kind_of

    kind = kind_of(name, [each.name for each in zoo.list("task")], "--with")
    if model.startswith(JUDGE) and kind != "pairs":
        raise RecipeError(f"--with {name}: a judge is evaluated on a file of pairs, as RewardBench has them")
    return kind


def _measured(
    zoo: Registry,
    model: str,
    against: str | None,
    name: str,
    kind: str,
    limit: int | None,
    settings: dict[str, Any],
) -> Measured:
    from alignzoo.evaluation import outside

    with console(stderr=True).status(f"evaluating {model} with {name}"), ExitStack() as stack:
        if kind == "harness":
            return outside.by_harness(name, model, limit=limit)
        from alignzoo import Context, recipe
        from alignzoo.cli.generating import load
        from alignzoo.lifecycle import opened

        if kind == "task":
            policy = load(zoo, model, settings)
            return outside.by_task(name, recipe.named_part(zoo, "task", name, None), policy, limit=limit)
        from alignzoo.compare.plan import entry
        from alignzoo.data import Data, prompts_of

        prompts = prompts_of(Data(path=name, limit=limit or 0))
        outside.check_pairs(prompts, name)
        if model.startswith(JUDGE):
            given = entry(model.removeprefix(JUDGE))
            judge = recipe.part(zoo.get("judge", given.name), given.settings, "judge", registry=zoo)
            return outside.by_judge(name, prompts, stack.enter_context(opened(judge, Context("evaluate"))))
        try:
            reward = stack.enter_context(opened(zoo.get("reward", "model")(model=model), Context("evaluate")))
        except NoScorer as no_scorer:
            if against is None:
                raise RecipeError(
                    f"{no_scorer}. A language model is asked which answers it has raised since another one, and their "
                    "loss: give the one that it began with, --against BASE"
                ) from no_scorer
            from alignzoo.compare.also import by_raising

            return by_raising(name, prompts, load(zoo, model, settings), load(zoo, against, settings))
        return outside.by_reward(name, prompts, reward, None)


def _write(
    out: Path,
    model: str,
    against: str | None,
    found: Sequence[Measured],
    base: Sequence[Measured],
    made: Sequence[Line],
) -> None:
    from alignzoo.storage import write_json, write_text

    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"model": name, "evaluation": each.name, "id": item.id, "metric": item.metric, "value": item.value}
        for name, some in ((model, found), (against, base))
        for each in some
        for item in each.items
    ]
    write_text(out / "items.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    about = {each.name: dict(each.about) | {"left_out": list(each.left_out)} for each in found}
    whole = {"model": model, "against": against, "about": about, "lines": [asdict(each) for each in made]}
    write_json(out / "evaluation.json", whole)


def _print(made: Sequence[Line], model: str, against: str | None, found: Sequence[Measured]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("evaluation", "metric", "items", "mean", "95 % interval")
    for head in (*heads, *(("base", "difference", "interval, all together") if against else ())):
        table.add_column(head, justify="left" if head in ("evaluation", "metric") else "right")
    for each in made:
        row = [each.evaluation, each.metric + (" (lower is better)" if each.lower_is_better else ""), str(each.items)]
        row += [f"{each.mean:.3f}", f"{each.low:.3f} to {each.high:.3f}"]
        if against:
            low, high = each.difference_low, each.difference_high
            interval = "no item differs" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
            row += [f"{each.base:.3f}", f"{each.difference:+.3f}", interval + (" *" if each.shown else "")]
        table.add_row(*map(Text, row))
    shown.print(Text(model + (f", beside {against}" if against else "")))
    shown.print(table)
    if against:
        shown.print("* the interval leaves out 0. Differences are paired by item; all intervals hold together.")
        shown.print("They speak of other items like these, not of another training run with another seed.")
    for done in found:
        if done.left_out:
            shown.print(f"{done.name}: left out, since they are no number of an item: {', '.join(done.left_out)}")
        if unanswered := done.about.get("unanswered"):
            shown.print(f"{done.name}: {unanswered} of {done.about['pairs']} pairs without a verdict are left out")
