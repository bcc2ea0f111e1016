"""Values that remember where they were written, and how one layer of a recipe lies over another."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo.errors import RecipeError
from alignzoo.files import check_kind, read_object, toml_decoded
from alignzoo.recipe.toml_lines import KeyPath, key_lines

STAGE_REFERENCE = "stage:"
"""What a string begins with that stands for the output of an earlier stage."""

TASK_REFERENCE = "task:"
"""What a string begins with that stands for a model of the task: "task:policy" or "task:base"."""

LISTS = ("stage", "reward")
"""Keys whose lists hold tables that are read, and located, one by one."""


@dataclass(frozen=True)
class Node:
    """A value and where it was written, for messages.

    The value is a table, a dict of nodes; or a list of nodes under a key whose list holds tables; or anything else as
    it stands.
    """

    value: Any
    where: str

    @property
    def is_table(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list) and all(isinstance(each, Node) for each in self.value)

    @property
    def is_reference(self) -> bool:
        """Whether it stands for the output of an earlier stage."""
        return isinstance(self.value, str) and self.value.startswith(STAGE_REFERENCE)

    def plain(self) -> Any:
        """The value without nodes."""
        if self.is_table:
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if self.is_list else self.value

    def without(self, *keys: str) -> Node:
        """The table but for these keys."""
        return Node({key: node for key, node in self.value.items() if key not in keys}, self.where)

    def with_values(self, **values: Node) -> Node:
        """The table with these values, too, or in the place of its own."""
        return Node({**self.value, **values}, self.where)

    def leaves(self, path: str) -> Iterator[tuple[str, Node]]:
        """Everything in it that is neither a table nor a list of tables, with its dotted path."""
        if self.is_table:
            for key, node in self.value.items():
                yield from node.leaves(f"{path}.{key}")
        elif self.is_list:
            for index, node in enumerate(self.value):
                yield from node.leaves(f"{path}.{index}")
        else:
            yield path, self


def tree(value: Any, locate: Callable[[KeyPath], str], path: KeyPath = (), lists: Collection[str] = LISTS) -> Node:
    """Plain data as nodes; `locate` says where each key is written, `lists` are the keys whose lists hold tables."""
    if isinstance(value, Mapping):
        return Node({key: tree(each, locate, (*path, key), lists) for key, each in value.items()}, locate(path))
    if isinstance(value, list | tuple) and path and path[-1] in lists:
        return Node([tree(each, locate, (*path, index), lists) for index, each in enumerate(value)], locate(path))
    return Node(value, locate(path))


def named(node: Node, key: str = "name") -> Node:
    """A part's table, also where only its name is given."""
    return Node({key: node}, node.where) if isinstance(node.value, str) else node


def merge(lower: Node, upper: Node, *, broad: bool = False) -> Node:
    """The upper over the lower, key by key; lists and other values are replaced.

    A table that names another part starts afresh: the settings below belong to a part that is no longer there. A
    reference to an earlier stage stays through that, and through a layer that is `broad`, meant for every stage:
    it is what makes a pipeline of the stages. A string where the other layer has a table is a part's name.
    """
    if broad and lower.is_reference:
        return lower
    if upper.is_table:
        lower = named(lower)
    elif lower.is_table and "name" in lower.value:
        upper = named(upper)
    if not (lower.is_table and upper.is_table):
        return upper
    kept = dict(lower.value)
    names = [table.value["name"].value for table in (lower, upper) if "name" in table.value]
    if len(names) == 2 and names[0] != names[1]:
        kept = {key: node for key, node in kept.items() if node.is_reference}
    for key, node in upper.value.items():
        kept[key] = merge(kept[key], node, broad=broad) if key in kept else node
    return Node(kept, lower.where)


def read_toml(path: Path, lists: Collection[str] = LISTS) -> Node:
    """A TOML file as nodes, each with its line; `lists` are the keys whose lists hold tables."""
    check_kind(path, RecipeError)
    try:
        text = path.read_text("utf-8")
        value = toml_decoded(text, path)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file in UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}, {_syntax(str(error), text)}") from error
    lines = key_lines(text)

    def locate(key: KeyPath) -> str:
        while key and key not in lines:
            key = key[:-1]
        return f"{path}, line {lines[key]}" if key else str(path)

    return tree(value, locate, lists=lists)


def read_manifest(path: Path) -> Node:
    """The resolved recipe in the manifest of an earlier run."""
    try:
        recipe = read_object(path, "recipe", error=RecipeError)["recipe"]
    except RecipeError as error:
        raise RecipeError(f"{path}: not the manifest of a run, as a recipe in .json must be: {error}") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path}: not the manifest of a run: its 'recipe' is {type(recipe).__name__}, not an object")
    return tree(recipe, lambda key: str(path))


def _syntax(message: str, text: str) -> str:
    """tomllib's message with the line that it speaks of."""
    lines = text.rstrip("\n").split("\n")
    what, _, place = message.rpartition(" (at ")
    numbers = re.findall(r"\d+", place) or [str(len(lines)), str(len(lines[-1]) + 1)]  # "at end of document"
    line, column = map(int, numbers)
    shown = lines[line - 1] if line <= len(lines) else ""
    return f"line {line}, column {column}: {what}\n    {shown}\n    {'^':>{column}}"
