"""Parts by themselves, from key=value: for commands that need no whole recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.named import build_part
from alignzoo.recipe.overrides import Overrides, normal, parse
from alignzoo.recipe.parts import build, show
from alignzoo.recipe.tables import Node, merge, named
from alignzoo.registry import Registry

T = TypeVar("T")


def tables(overrides: Overrides, known: Sequence[str]) -> dict[str, Node]:
    """What key=value strings say of each of the known parts; a later one wins."""
    root = Node({}, "the command line")
    for (first, *rest), node in parse(overrides):
        if first not in known:
            raise RecipeError(f"{node.where}: there is no {first!r} here. {did_you_mean(first, known)}")
        for key in reversed(rest):
            node = Node({key: node}, node.where)
        root = merge(root, Node({first: normal(first, node)}, node.where))
    return dict(root.value)


def named_part(registry: Registry, kind: str, name: str, table: Node | None) -> Any:
    """A registered part with these settings."""
    given = Node({"name": Node(name, "the command line")}, "the command line")
    return build_part(registry, kind, given if table is None else merge(given, named(table)), kind)[0]


def settings_of(cls: type[T], table: Node | None, path: str) -> T:
    """A dataclass with these settings."""
    node = table or Node({}, "the command line")
    if not node.is_table:
        raise RecipeError(
            f"{node.where}: {path}: found {show(node.plain())}, allowed: settings, as in {path}.KEY=VALUE"
        )
    built: T = build(cls, node, path)
    return built
