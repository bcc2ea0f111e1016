"""A constitution as data: a TOML file of principles, ours or the user's own; or Anthropic's JSON as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.parts import build, show
from alignzoo.recipe.tables import Node, read_toml
from alignzoo_constitution import anthropic
from alignzoo_constitution.principle import Example, Principle, chosen

__all__ = ["Example", "Principle", "chosen", "load"]

SHIPPED = Path(__file__).parent / "constitutions"
KEYS = ("description", "principle")


def load(path_or_name: str | Path) -> tuple[Principle, ...]:
    """The principles of a constitution that ships with alignzoo, of a TOML file, or of Anthropic's JSON.

    Of the latter a folder brings both its files, CritiqueRevisionInstructions.json and RLMadisonInstructions.json, with
    their few-shot examples; a single file brings its own principles. The error of a file that is wrong says which line
    and field, what was found, and what is allowed.
    """
    path = Path(path_or_name).expanduser()
    shipped = {each.stem: each for each in sorted(SHIPPED.glob("*.toml"))}
    if str(path_or_name) in shipped:
        return _read(shipped[str(path_or_name)])
    if path.is_dir() or path.suffix == ".json":
        return anthropic.read(path)
    if path.suffix == ".toml":
        return _read(path)
    raise RecipeError(
        f"there is no constitution {str(path_or_name)!r}. {did_you_mean(str(path_or_name), shipped)} A file of your "
        "own ends in .toml; Anthropic's prompts are a folder or a .json file."
    )


def _read(path: Path) -> tuple[Principle, ...]:
    root = read_toml(path, lists=("principle", "examples"))
    for key, node in root.value.items():
        if key not in KEYS:
            raise RecipeError(f"{node.where}: {key!r} is no key of a constitution. {did_you_mean(key, KEYS)}")
    tables = root.value.get("principle", Node([], root.where))
    _check_tables(tables, "principle", "[[principle]]")
    if not tables.value:
        raise RecipeError(f"{root.where}: there is no principle; a constitution needs one [[principle]] or more")
    seen: dict[str, Node] = {}
    principles = []
    for number, table in enumerate(tables.value, 1):
        principle = _principle(table, number)
        if principle.name in seen:
            first = seen[principle.name].where
            raise RecipeError(
                f"{table.where}: a second principle is called {principle.name!r}; the first is at {first}"
            )
        seen[principle.name] = table
        principles.append(principle)
    return tuple(principles)


def _principle(table: Node, number: int) -> Principle:
    name = table.value.get("name", Node(None, table.where)).value
    path = f"principle.{name if isinstance(name, str) and name else number}"
    examples = table.value.get("examples", Node([], table.where))
    _check_tables(examples, f"{path}.examples", "[[principle.examples]]")
    principle: Principle = build(Principle, table.without("examples"), path)
    shown = tuple(build(Example, each, f"{path}.examples.{index}") for index, each in enumerate(examples.value))
    return replace(principle, examples=shown)


def _check_tables(node: Node, path: str, header: str) -> None:
    if not node.is_list or not all(each.is_table for each in node.value):
        raise RecipeError(f"{node.where}: {path}: found {show(node.plain())}, allowed: tables, each under {header}")
