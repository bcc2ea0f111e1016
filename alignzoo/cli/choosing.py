"""`alignzoo choose`: from what somebody has to the methods that fit, with what each costs and how to run it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import AsJson, Debug, NoPlugins, Plugins, registry, told
from alignzoo.errors import RecipeError
from alignzoo.printable import printable

if TYPE_CHECKING:
    from alignzoo.cli.fitting import Fit, Have

WIDTH = 80

FEW = 12
"""Methods that are shown unless all are asked for."""


@told
def choose(
    data: Annotated[
        str,
        typer.Option(metavar="FILE|SHAPE", help="demonstrations, pairs, rankings, scores, labels, prompts; or a file."),
    ] = "",
    format: Annotated[str, typer.Option(metavar="NAME", help="The file's format, as in a recipe's data.")] = "auto",
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="A column of the file, as in prompt=question.")
    ] = None,
    checker: Annotated[
        bool, typer.Option("--checker", help="An answer can be checked, by a rule or a function.")
    ] = False,
    judge: Annotated[bool, typer.Option("--judge", help="A model can be asked which answer is better.")] = False,
    reward_model: Annotated[bool, typer.Option("--reward-model", help="A model scores answers.")] = False,
    people: Annotated[bool, typer.Option("--people", help="People can be asked.")] = False,
    teacher: Annotated[bool, typer.Option("--teacher", help="A better model with the same tokens is there.")] = False,
    model: Annotated[str, typer.Option(metavar="DIR|SIZE", help="A model, or its size, as in 1.5B.")] = "",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Of the device, as in 24GB.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Show all that fit, not the first few.")] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Choose a method: by what the data are, who can score answers, and the memory there is."""
    from alignzoo.cli import fitting
    from alignzoo.machine import bytes_of
    from alignzoo.traits import REWARD_MODEL

    if memory and not model:
        raise RecipeError("--memory says what a model has to fit into: give --model, a directory or a size as in 1.5B")
    zoo = registry(plugin, no_plugin)
    asked = {"checker": checker, "judge": judge, REWARD_MODEL: reward_model, "people": people}
    scorers = [name for name, given in asked.items() if given]
    if not data and not scorers and not teacher:
        raise RecipeError(_say_what_you_have())
    renamed, path = _renamed(column or ()), data if data and fitting.is_file(data) else ""
    about = fitting.looked_at(data, format, renamed) if path else (_shape(data, column, format), "", "")
    shape, answer, mode = about
    if shape == "prompts" and answer and not scorers:
        scorers = ["checker"]
    have = fitting.Have(
        shape=shape,
        scorers=tuple(scorers),
        teacher=teacher,
        data=path,
        format=format,
        columns=renamed,
        answer=answer,
        mode=mode,
        model="" if fitting.SIZE.fullmatch(model) else model,
        model_shape=fitting.size_of(zoo, model) if model else None,
        memory=bytes_of(memory) if memory else 0.0,
    )
    fits = sorted(fitting.fitting(zoo, have), key=_known)
    possible = list(fitting.within(fits, have.memory))
    shown = _as_json(have, possible) if as_json else printable("\n".join(_lines(have, fits, possible, everything)))
    sys.stdout.write(shown + "\n")


def _shape(name: str, column: Sequence[str] | None, format: str) -> str:
    """The shape that is named. Raises where it is said how a file is read, and there is none."""
    from alignzoo.cli import fitting

    shape = fitting.check_shape(name or "prompts")
    if column or format != "auto":
        raise RecipeError("--column and --format say how a file is read: give --data the file, or leave them out")
    return shape


def _renamed(given: Sequence[str]) -> dict[str, str]:
    """The columns of a file by our names for them."""
    for each in given:
        ours, _, theirs = each.partition("=")
        if not ours or not theirs:
            raise RecipeError(f"--column {each}: expected OURS=THEIRS, as in prompt=question")
    return dict(each.split("=", 1) for each in given)


def _say_what_you_have() -> str:
    from alignzoo.cli import fitting

    shapes = "".join(f"\n  --data {name}: {what}" for name, what in fitting.SHAPES.items())
    return (
        f"say what you have: --data FILE, which is looked at, or its shape:{shapes}\n"
        "and who scores what a policy generates: --checker, --judge, --reward-model, --people; or --teacher"
    )


def _as_json(have: Have, possible: Sequence[Fit]) -> str:
    """What fits, and what was asked for."""
    methods = [_facts(have, each) for each in possible]
    about = {"data": have.shape, "scorers": list(have.scorers), "answer": have.answer, "methods": methods}
    return json.dumps(about, indent=2, ensure_ascii=False)


def _facts(have: Have, fit: Fit) -> dict[str, Any]:
    """What is known of a method, as data."""
    from alignzoo.cli import card, fitting
    from alignzoo.registry.registrar import needs_of

    needs = sorted(needs_of(fit.optimizer))
    return {
        "name": fit.listed.name,
        "family": fit.listed.family,
        "variant_of": fit.listed.variant_of,
        "summary": fit.listed.summary,
        "made_for_it": fit.grade == "made",
        "how": fit.how,
        "online": fit.traits.online,
        "trains": fit.traits.trains,
        "completions": fit.traits.completions,
        "needs": needs,
        "passes": passes(fit),
        "models": models(needs),
        "bytes": {"full": fit.full, "adapter": fit.adapter} if fit.full else {},
        "oracle": card.oracle(fit.listed.name, fit.listed.target),
        "benchmarks": card.benchmarks(fit.listed.name),
        "recipe": fit.recipe,
        "command": fitting.command(have, fit),
    }


def _known(fit: Fit) -> tuple[bool, ...]:
    """What is known of a method, the most first."""
    from alignzoo.cli import card

    listed = fit.listed
    tried, held = card.benchmarks(listed.name), card.oracle(listed.name, listed.target)
    return not fit.recipe, not tried, bool(listed.variant_of), not held


def passes(fit: Fit) -> str:
    """The forward passes that a row costs; a backward pass counts two."""
    from alignzoo.cli import card
    from alignzoo.registry.registrar import needs_of

    epochs = fit.optimizer.epochs
    return str(card.cost(needs_of(fit.optimizer), epochs)["total"]).partition(" at ")[0]


def models(needs: Sequence[str]) -> list[str]:
    """The models that are held: the policy and who else answers."""
    from alignzoo import columns
    from alignzoo.cli import fitting

    others = ["reference"] if columns.REFERENCE in columns.roles(needs) else []
    return ["policy", *others, *(["critic"] if "values" in needs else []), *fitting.teachers(needs)]


def _lines(have: Have, fits: Sequence[Fit], possible: Sequence[Fit], everything: bool) -> list[str]:
    """The answer, on 80 columns."""
    from alignzoo.cli import fitting

    scored = f", scored by {' or '.join(have.scorers)}" if have.scorers else ""
    lines = [f"data: {have.shape}, {fitting.SHAPES[have.shape]}{scored}{', with a teacher' if have.teacher else ''}"]
    if have.answer and have.shape == "prompts":
        lines.append(f"the column {have.answer!r} looks like the right answer, which a checker can verify")
    made = [each for each in possible if each.grade == "made"]
    shown = made if everything else made[:FEW]
    if made:
        sizes = " In GB: full, and with an adapter, without activations." if have.model_shape else ""
        head = f"F is a forward pass of a row (a backward pass: 2), F' the critic's.{sizes} * has a recipe of its own."
        lines += ["", *_wrapped(head)]
    for family in dict.fromkeys(each.listed.family for each in shown):
        lines += ["", family or "without a family"]
        for each in (each for each in shown if each.listed.family == family):
            lines += _entry(have, each)
    if len(shown) < len(made):
        lines += ["", f"and {len(made) - len(shown)} more that are made for it: --all"]
    also = [each for each in possible if each.grade == "also"]
    for how in dict.fromkeys(each.how for each in also):
        of_it = [each for each in also if each.how == how]
        words = " ".join(fitting.command(have, of_it[0]))
        lines += [
            "",
            *_wrapped(f"also, where {how}: {', '.join(each.listed.name for each in of_it)}"),
            *_wrapped(f"  as in {words}"),
        ]
    if len(possible) < len(fits):
        count = len(fits) - len(possible)
        lines += ["", f"not within {have.memory / 1e9:g} GB, even with an adapter: {count}"]
    if made and not have.model:
        embedded = "These train the small embedded model: --model DIR, or policy.model=DIR, trains yours."
        lines += ["", *_wrapped(embedded)]
    if not possible:
        lines += ["", *_wrapped(_nothing(have))]
    return lines


def _entry(have: Have, fit: Fit) -> list[str]:
    from alignzoo.cli import card, fitting
    from alignzoo.registry.registrar import needs_of

    held = ", ".join(models(sorted(needs_of(fit.optimizer))))
    star = "*" if fit.recipe else " "
    size = f"; {fit.full / 1e9:.3g} / {fit.adapter / 1e9:.3g} GB" if fit.full else ""
    facts = f"{passes(fit)}; {held}{size}"
    oracle = "; held to an oracle" if card.oracle(fit.listed.name, fit.listed.target) else ""
    found = [f" {star}{fit.listed.name:22} {fit.listed.summary}"[:WIDTH], *_wrapped(facts + oracle, 25)]
    for row in card.benchmarks(fit.listed.name):
        found += _wrapped(f"{row['task']}: gold {row['gold_before']:.2f} -> {row['gold_after']:.2f}", 25)
    line = "    $"
    for word in fitting.command(have, fit):
        if len(line) + len(word) + 3 > WIDTH and line.strip() != "$":
            found.append(f"{line} \\")
            line = "       "
        line += f" {word}"
    return [*found, line]


def _wrapped(text: str, indent: int = 0) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))


def _nothing(have: Have) -> str:
    """What to do where no method fits."""
    if have.memory:
        return "Take a smaller model, or several devices (docs/scaling.md)."
    return (
        "Nothing scores what a policy generates: give --checker, --judge, --reward-model or --people, or --teacher "
        "for a better model; or answers that are good, as demonstrations."
    )
