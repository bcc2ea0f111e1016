"""`alignzoo import TOOL FILE`: another tool's configuration as a recipe."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import alignzoo
from alignzoo.cli.common import Debug, NoPlugins, Plugins, registry, told
from alignzoo.errors import RecipeError
from alignzoo.printable import printable

if TYPE_CHECKING:
    from alignzoo.registry import Registry
    from alignzoo_import.translating import Translation


@told
def import_config(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="trl, axolotl, llamafactory, or a table in a .toml.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its configuration: YAML, JSON or TOML.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe, as in data.path=FILE.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RECIPE", help="Where to write; default: to the terminal.")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="Which of the tool's methods, where the file does not say it.")
    ] = "",
    processes: Annotated[int, typer.Option(min=1, help="How many devices the tool trained on.")] = 1,
    packed: Annotated[float, typer.Option(min=0, help="Rows that a packed sequence holds on average.")] = 0.0,
    as_of: Annotated[str, typer.Option(metavar="VERSION", help="The tool's version, by whose defaults it is.")] = "",
    drop: Annotated[
        list[str] | None, typer.Option(metavar="KEY,...", help="Go without these keys, though the result differs.")
    ] = None,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Translate another tool's configuration into a recipe, and say what became of every key."""
    from alignzoo.recipe.overrides import parse
    from alignzoo_import.methods import Asked
    from alignzoo_import.reading import read_config
    from alignzoo_import.table import read_table
    from alignzoo_import.translating import translate
    from alignzoo_import.writing import lists, recipe_text

    if out is not None and out.exists():
        raise RecipeError(f"{out} is there already: give another --out")
    if out is not None and out.suffix != ".toml":
        raise RecipeError(f"--out {out}: a recipe's name ends in .toml")
    table = read_table(tool)
    dropped = tuple(key.strip() for each in drop or () for key in each.split(",") if key.strip())
    given = {".".join(keys): node.plain() for keys, node in parse(overrides or ())}
    asked = Asked(file, method, processes, packed, as_of, dropped, given)
    found = translate(table, tool, read_config(file, table.nested), asked)
    if found.refused or found.missing or out is not None or not sys.stdout.isatty():
        sys.stderr.write(printable(lists(found)) + "\n")  # else the recipe shows them
    again = ["--method", method] * bool(method) + ["--processes", str(processes)] * (processes > 1)
    again += (
        ["--packed", f"{packed:g}"] * bool(packed)
        + ["--as-of", as_of] * bool(as_of)
        + (["-o", str(out)] if out else [])
    )
    _check_whole(found, file, [tool, str(file), *(overrides or ()), *again], dropped)
    text = recipe_text(found, file.name, alignzoo.__version__)
    checked(text, registry(plugin, no_plugin), (out or Path("recipe.toml")).name)
    if out is None:
        sys.stdout.write(text)
        return
    from alignzoo.storage import write_text

    write_text(out, text)
    trust = " --trust" if "reward" in found.settings and "function" in text else ""
    name = shlex.quote(str(out))
    sys.stderr.write(f"{out}: go on with alignzoo plan {name}, alignzoo run {name}{trust}\n")


def checked(text: str, zoo: Registry, name: str) -> None:
    """Raise RecipeError where the recipe cannot be read back."""
    from alignzoo.recipe import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, "utf-8")
        load(path, (), registry=zoo)


def _check_whole(found: Translation, file: Path, words: Sequence[str], dropped: Sequence[str]) -> None:
    """Raise where something is refused or missing, with what to type."""
    if not found.refused and not found.missing:
        return
    keys = [*dropped, *(line.key for line in found.refused if " " not in line.key)]
    more = [f"{path}=..." for path in found.missing] + ([f"--drop {','.join(keys)}"] if keys else [])
    count = len(found.refused) + len(found.missing)
    what = "one thing stands" if count == 1 else f"{count} things stand"
    raise RecipeError(
        f"{file}: {what} against a recipe, listed above as refused or missing; nothing was written.\n"
        "Settle each as it says there. To go without refused keys, though the result will differ:\n"
        f"  {' '.join(['alignzoo import', shlex.join(words), *more])}"
    )
