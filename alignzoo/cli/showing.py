"""`alignzoo show NAME`: what a part computes, what it needs, and every setting; or what a recipe resolves to."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import AsJson, Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import PluginError
from alignzoo.registry.registrar import KINDS, needs_of

if TYPE_CHECKING:
    from alignzoo.registry import Registry
    from alignzoo.registry.registrar import Registration


@told
def show(
    name: Annotated[str, typer.Argument(help="A name of `alignzoo list`, also as kind:name or plugin/name.")],
    as_json: AsJson = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Show a part: formula, source, needs, and every field; or a recipe: its stages, every default filled in."""
    zoo = registry(plugin, no_plugin)
    found = find(zoo, name)
    about = recipe_facts(zoo, found) if found.kind == "recipe" else part_facts(zoo, found)
    if as_json:
        sys.stdout.write(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    elif found.kind == "recipe":
        _print_recipe(title(found), about)
    else:
        _print_part(title(found), about)
        if found.kind == "optimizer" and zoo.has("recipe", found.name):
            sys.stdout.write(f"\nThere is a recipe of this name, too: alignzoo show recipe:{found.name}\n")


def find(zoo: Registry, name: str) -> Registration:
    """What a name means. Of a part and its recipe of the same name, the part."""
    kind, colon, rest = name.partition(":")
    kinds = [kind] if colon else list(KINDS)
    rest = rest if colon else name
    if colon and kind not in KINDS:
        zoo.list(kind)  # raises, and says which kinds there are
    holding = [kind for kind in kinds if zoo.has(kind, rest)]
    if not holding:
        raise PluginError(zoo.unknown(kinds, rest))
    parts = [kind for kind in holding if kind != "recipe"]
    if len(parts) > 1:
        choices = " or ".join(f"{kind}:{rest}" for kind in parts)
        raise PluginError(f"{rest!r} is registered as {' and '.join(parts)}: say which, {choices}")
    return zoo.registration((parts or holding)[0], rest)


def part_facts(zoo: Registry, found: Registration) -> dict[str, Any]:
    """Everything that is to be known about a part."""
    from alignzoo.cli import card, relatives
    from alignzoo.recipe.fields import fields_of, paragraphs

    part = zoo.get(found.kind, f"{found.plugin}/{found.name}")
    cls = part if isinstance(part, type) else type(part)
    facts = _facts(found) | {"target": found.target, "doc": paragraphs(cls.__doc__ or "")}
    if found.kind == "optimizer":
        facts |= {"needs": sorted(needs_of(part)), "couples": getattr(part, "couples", "group")}
    if found.kind == "sampler":
        facts |= {"online": bool(part.online)}
    settable = isinstance(part, type) and is_dataclass(part)
    facts |= {"papers": card.papers(facts["doc"]), "fields": [asdict(f) for f in fields_of(cls)] if settable else []}
    required = [field["name"] for field in facts["fields"] if field["required"]]
    if found.kind == "optimizer" and not required:
        built = part() if settable else part
        facts |= {"cost": card.cost(built.needs, built.epochs), "conformance": card.conformance(built)}
    if found.kind == "optimizer":
        facts |= {"benchmarks": card.benchmarks(found.name), "nearest": relatives.nearest(zoo, found)}
    return facts | {"example": card.example(found.kind, found.name, required)}


def recipe_facts(zoo: Registry, found: Registration) -> dict[str, Any]:
    """A recipe, resolved."""
    from alignzoo.recipe import load

    name = f"{found.plugin}/{found.name}"
    recipe = load(name, (), registry=zoo)
    return _facts(found) | {"description": recipe.description, "stages": recipe.resolved["stage"]}


def _facts(found: Registration) -> dict[str, Any]:
    owner = {"plugin": found.plugin, "distribution": found.distribution, "version": found.version}
    listed = {"family": found.family, "aliases": list(found.aliases), "variant_of": found.variant_of}
    return {"kind": found.kind, "name": found.name, **owner, **{key: each for key, each in listed.items() if each}}


def _print_part(title: str, about: dict[str, Any]) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(title, style="bold"))
    out.print()
    out.print(Text(about["doc"] or "(It has no docstring.)"))
    out.print()
    if _place(about):
        out.print(Text(f"{_place(about)}\n"))
    if "needs" in about:
        out.print(Text(f"needs: {', '.join(about['needs']) or 'nothing'}"))
        out.print(Text(f"a loss may not be split through a {about['couples']}\n"))
    if about.get("nearest"):
        its = about["nearest"]
        out.print(Text(f"nearest relative: {its['name']}, {its['how']}. It differs: {'; '.join(its['differs'])}\n"))
    if "online" in about:
        out.print(Text("online: the policy writes\n" if about["online"] else "offline: the data are given\n"))
    _print_fields(about["fields"])
    if "cost" in about:
        _print_cost(about["cost"])
    if "conformance" in about:
        _print_conformance(about["name"], about["conformance"])
    for row in about.get("benchmarks", ()):
        out.print(
            Text(
                f"\nbenchmark on {row['task']}: gold {row['gold_before']:.2f} -> {row['gold_after']:.2f}, KL "
                f"{row['kl']:.2f} nats, {row['seconds']:.0f} s, mean of {row['seeds']} seeds ({row['machine']})"
            )
        )
    if about["papers"]:
        out.print(Text(f"\npapers: {'  '.join(about['papers'])}"), soft_wrap=True)
    out.print(Text(f"\nexample: {about['example']}"), soft_wrap=True)


def _place(about: dict[str, Any]) -> str:
    """Its family, its other names and what it is a variant of, where there are any."""
    said = [f"family: {about['family']}"] if "family" in about else []
    said += [f"also called: {', '.join(about['aliases'])}"] if "aliases" in about else []
    said += [f"a variant of {about['variant_of']}"] if "variant_of" in about else []
    return "; ".join(said)


def _print_fields(fields: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    if not fields:
        out.print(Text("It has no settings."))
        return
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("field", no_wrap=True, style="cyan")
    rows.add_column("default", overflow="fold", max_width=16)
    rows.add_column("allowed", max_width=30)
    rows.add_column("meaning", ratio=1)
    for field in fields:
        default = "(required)" if field["required"] else json.dumps(field["default"], ensure_ascii=False)
        rows.add_row(*(Text(str(each)) for each in (field["name"], default, field["type"], field["meaning"])))
    out.print(rows)


def _print_cost(cost: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text("\na step costs, beside the writing", style="bold"))
    rows = Table(box=None, pad_edge=False, show_header=False)
    for line in cost["step"]:
        rows.add_row(Text(line["cost"], style="cyan"), line["what"])
    rows.add_row(Text(cost["total"].partition(" at ")[0], style="bold"), f"together{cost['total'][-9:]}")
    out.print(rows)
    out.print(Text("\nin memory", style="bold"))
    for line in cost["memory"]:
        symbol, _, what = line.partition(": ")
        out.print(Text(f"{symbol}  {what}"))
    out.print(Text(f"{cost['symbols']}", style="dim"))


def _print_conformance(name: str, found: dict[str, Any]) -> None:
    from rich.text import Text

    checks, failed = found["checks"], found["failed"]
    waived = found["waived"]
    kept = f"keeps {checks - len(waived)} of {checks} checks" if waived else f"keeps all {checks} checks"
    said = f"breaks {len(failed)} of {checks} checks: {', '.join(failed)}" if failed else kept
    bias = found["figures"].get("length_bias/answer")
    pulls = f"; the gradient on a 4 times longer good answer is {bias:.2g} times as large" if bias is not None else ""
    console().print(Text(f"\nconformance: {said}{pulls} (alignzoo check {name})", style="" if not failed else "red"))
    for law, why in waived.items():
        console().print(Text(f"{law} does not apply to it: {why}"))


def _print_recipe(title: str, about: dict[str, Any]) -> None:
    from rich.text import Text

    from alignzoo.report.toml_text import toml_text

    out = console()
    out.print(Text(title, style="bold"))
    if about["description"]:
        out.print(Text(f"\n{about['description']}"))
    if _place(about):
        out.print(Text(f"\n{_place(about)}"))
    stages = ", ".join(f"{stage['name']} ({_named(stage['optimizer'])})" for stage in about["stages"])
    out.print(Text(f"\nstages: {stages}\n"))
    sys.stdout.write(toml_text({"stage": about["stages"]}))


def title(found: Registration) -> str:
    """What it is, and whose."""
    return f"{found.kind} {found.name}  ({f'{found.distribution} {found.version}'.strip() or found.plugin})"


def _named(part: Any) -> str:
    return str(part["name"]) if isinstance(part, dict) else str(part)
