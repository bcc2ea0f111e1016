"""`size=NAME`: the lengths, batches and rates of a recipe's [sizes.NAME], for a first run on a processor, say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignzoo.errors import RecipeError
from alignzoo.recipe.parts import show
from alignzoo.recipe.rounds import Override
from alignzoo.recipe.tables import Node

SIZE, SIZES = "size", "sizes"
"""The override that names one, and the recipe's table of them."""


def sized(root: Node, overrides: Iterable[Override]) -> tuple[Node, list[Override]]:
    """What the named size changes, empty where none is named, and the other overrides."""
    layer, others = Node({}, root.where), []
    for keys, node in overrides:
        if keys == [SIZE]:
            layer = _named(root, node)
        else:
            others.append((keys, node))
    return layer, others


def _named(root: Node, node: Node) -> Node:
    tables = root.value.get(SIZES, Node({}, root.where))
    if not tables.is_table:
        found = show(tables.plain())
        raise RecipeError(f"{tables.where}: {SIZES}: found {found}, allowed: tables, as in [{SIZES}.NAME]")
    known: Sequence[str] = list(tables.value)
    if isinstance(node.value, str) and node.value in known:
        layer: Node = tables.value[node.value]
        return layer
    cure = (
        f"allowed: {', '.join(known)}"
        if known
        else "but this recipe has no [sizes]; set policy.max_new_tokens, schedule.prompts and schedule.max_steps"
    )
    raise RecipeError(f"{node.where}: size: found {show(node.plain())}, {cure}")
