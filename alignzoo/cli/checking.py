"""`alignzoo check NAME`: holds a part to the laws of its kind, and says of each whether it is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.card import waived_of
from alignzoo.cli.common import AsJson, Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.cli.showing import find, title
from alignzoo.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from alignzoo.registry import Registry
    from alignzoo.registry.registrar import Registration
    from alignzoo.testing import Check, CheckResult


@told
def check(
    name: Annotated[str, typer.Argument(help="A name of `alignzoo list`, also as kind:name or plugin/name.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Check it with these settings.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Only this check.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE,...]",
            help="A column of the data that an optimizer reads; with a role, the values of its rows, as greedy=0,1.",
        ),
    ] = None,
    oracle: Annotated[
        bool,
        typer.Option("--oracle", help="Compare an optimizer's loss and gradient with its reference implementation."),
    ] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Run the conformance checks of a part's kind. Exit status 1 when it breaks a law."""
    zoo = registry(plugin, no_plugin)
    found = find(zoo, name)
    part = part_of(zoo, found, settings or ())
    from alignzoo.testing import Given, results

    if oracle:
        _beside_its_twin(found, part, as_json)
        return
    chosen = _chosen(found.kind, only)
    _check_columns(column or ())
    made = list(results(part, chosen, Given(columns=tuple(column or ()))))
    waived = {law: why for law, why in waived_of(part).items() if law in chosen}
    if as_json:
        sys.stdout.write(json.dumps(facts(found, part, made) | {"waived": waived}, indent=2, ensure_ascii=False) + "\n")
    else:
        _print(found, made, waived)
    if not all(each.ok for each in made):
        raise typer.Exit(1)


def part_of(zoo: Registry, found: Registration, settings: Sequence[str]) -> Any:
    """A part, built with these settings."""
    if found.kind == "recipe":
        raise PluginError(f"{found.name!r} is a recipe: there are checks for parts only, as alignzoo list names them")
    target = zoo.get(found.kind, f"{found.plugin}/{found.name}")
    from alignzoo.recipe import part

    made = part(target, settings, found.name, registry=zoo)
    if found.kind == "policy" and getattr(made, "model", None) == "":
        raise PluginError(f"a policy is checked with a model: alignzoo check {found.name} model=DIRECTORY")
    return made


def _beside_its_twin(found: Registration, part: Any, as_json: bool) -> None:
    """Value and gradient beside the reference implementation. Exit status 1 where they differ."""
    from alignzoo.testing.oracle import compare

    if found.kind != "optimizer":
        raise PluginError(
            f"--oracle compares optimizers with reference implementations; {found.name} is a {found.kind}"
        )
    made = compare(part, found.name)
    if as_json:
        rows = [
            {"twin": each.twin.loss, "package": each.twin.package, "version": each.version, "ours": each.ours}
            | {"theirs": each.theirs, "gradient": each.gradient, "equal": each.equal}
            for each in made
        ]
        sys.stdout.write(json.dumps({"name": found.name, "part": repr(part), "oracle": rows}, indent=2) + "\n")
    else:
        out, twin = console(), made[0].twin
        out.print(
            f"{title(found)}, beside {twin.package} {made[0].version} ({twin.loss})", markup=False, soft_wrap=True
        )
        for each in made:
            verdict = "equal" if each.equal else "DIFFERENT"
            figures = f"loss {each.ours:.7g}, theirs {each.theirs:.7g}; gradients are {each.gradient:.1e} apart"
            out.print(f"{verdict}: {figures}", markup=False, soft_wrap=True)
    if not all(each.equal for each in made):
        raise typer.Exit(1)


def _check_columns(columns: Sequence[str]) -> None:
    """Raise PluginError where a column's values are no numbers."""
    from alignzoo.testing.world import column_values

    try:
        column_values(columns)
    except ValueError as error:
        raise PluginError(f"--column: {error}") from error


def _chosen(kind: str, only: Sequence[str] | None) -> dict[str, Check]:
    from alignzoo.testing import KIND_CHECKS

    if kind not in KIND_CHECKS:
        raise PluginError(f"there are no checks of a {kind}. {did_you_mean(kind, KIND_CHECKS)}")
    made = KIND_CHECKS[kind]
    for name in only or ():
        if name not in made:
            raise PluginError(f"there is no check {name!r} of kind {kind!r}. {did_you_mean(name, made)}")
    return {name: check for name, check in made.items() if not only or name in only}


def facts(found: Registration, part: Any, made: Sequence[CheckResult]) -> dict[str, Any]:
    """Everything that the checks have found."""
    return {
        **{"kind": found.kind, "name": found.name, "plugin": found.plugin},
        **{"distribution": found.distribution, "version": found.version, "part": repr(part)},
        "ok": all(each.ok for each in made),
        "seconds": round(sum(each.seconds for each in made), 3),
        "checks": [_of(each) for each in made],
    }


def _of(result: CheckResult) -> dict[str, Any]:
    from alignzoo.testing import LAWS

    about = {"check": result.check, "law": result.law, "says": LAWS[result.law], "about": result.about}
    broken = result.error
    failure = broken and {
        **{"input": broken.given, "expected": broken.expected, "found": broken.found, "cause": broken.cause}
    }
    return about | {
        "ok": result.ok,
        "seconds": round(result.seconds, 3),
        "figures": dict(result.figures),
        "failure": failure,
    }


def _print(found: Registration, made: Sequence[CheckResult], waived: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text(title(found), style="bold"))
    out.print()
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("check", no_wrap=True, style="cyan")
    rows.add_column("law", justify="right")
    rows.add_column("", no_wrap=True)
    rows.add_column("what it holds; where it fails, the usual cause", ratio=1)
    for each in made:
        verdict = Text("ok", style="green") if each.ok else Text("FAILED", style="bold red")
        says = each.error.cause if each.error else each.about
        if each.check in waived:
            verdict, says = Text("-"), f"Does not apply: {waived[each.check]}"
        rows.add_row(each.check, str(each.law), verdict, Text(says))
    out.print(rows)
    figures = {name: value for each in made for name, value in each.figures.items()}
    if figures:
        out.print()
    for name, value in figures.items():
        out.print(Text(f"{name}: {value:.3g}  {MEANINGS.get(name, '')}".rstrip()), soft_wrap=True)
    for each in made:
        if each.error is not None:
            out.print(Text(f"\n{each.check}: {each.error}"), soft_wrap=True)
    failed = sum(not each.ok for each in made)
    kept = f"{len(made) - len(waived)} of {len(made)} checks are kept, the others do not apply"
    said = kept if waived else f"all {len(made)} checks are kept"
    said = f"{failed} of {len(made)} checks failed" if failed else said
    out.print(Text(f"\n{said} ({sum(each.seconds for each in made):.1f} s)"))


MEANINGS = {
    "length_bias/answer": "pull on a good answer of 8 tokens, beside one of 2 that is as good; 1: no bias by answer",
    "length_bias/token": "the same per token; 1: no bias by token",
    "length/correlation": "of a completion's length and its score, within a group",
    "length/said_twice": "what saying the same twice adds to a score, or to the chance of being preferred",
    "place/leaning": "what being shown first adds to the chance of being preferred",
    "place/consistent": "share of pairs with the same winner in both orders",
    "labels/agreement": "share of the given pairs on which a verdict is as the label; ½: no better than a coin",
    "labels_agree_with_gold": "share of labelled pairs that the gold score orders alike",
}
"""What a figure says."""
