"""Parts that a table names, built with those that they hold in turn."""

from __future__ import annotations

from typing import Any

from alignzoo.errors import PluginError, RecipeError
from alignzoo.recipe.parts import build, check_finite, checked, hints_of, kind_of, settings, show
from alignzoo.recipe.tables import Node, named
from alignzoo.registry import Registry
from alignzoo.registry.registrar import check_part

Plain = dict[str, Any]


def build_part(registry: Registry, kind: str, node: Node, path: str, policy: str = "") -> tuple[Any, Any]:
    """A named part, built, and as plain data; `policy` is the name of the policies in it that have none."""
    if not node.is_table:
        return _ready(kind, node, path), _live(node.value)
    if "name" not in node.value:
        known = f"Known: {', '.join(registry.names(kind)) or 'none'}."
        part = path.partition(".")[2]
        if node.value and "." not in part:  # a setting that was meant for another stage, perhaps
            meant = (
                f"say {path}.name as well, or which other stage is meant, as in STAGE.{part}.{next(iter(node.value))}"
            )
            raise RecipeError(f"{node.where}: {path} has no name that this could be a setting of: {meant}. {known}")
        raise RecipeError(f"{node.where}: {path} has no name. {known}")
    name: str = checked(str, node.value["name"], f"{path}.name")
    table = node.without("name")
    try:
        target = registry.get(kind, name)
    except PluginError as error:
        blame = PluginError if registry.has(kind, name) else RecipeError
        raise blame(f"{node.value['name'].where}: {path}.name: {error}") from error
    name = registry.canonical(kind, name)
    if isinstance(target, type):
        whole, inner = with_parts(registry, target, table, path, policy)
        part = build(target, whole, path)
        own = {key: value for key, value in settings(part).items() if value is None or key not in inner}
        return part, {"name": name, **own, **{key: value for key, value in inner.items() if value is not None}}
    for key, value in table.value.items():
        raise RecipeError(f"{value.where}: {path}.{key}: {kind} {name!r} is a ready object and has no settings")
    return target, {"name": name}


def with_parts(registry: Registry, cls: type[Any], table: Node, path: str, policy: str = "") -> tuple[Node, Plain]:
    """The table with every part built that is itself a field, as in `judge = {name = "openai"}`; and those as data,
    None where the table gives none: a default has no name to be told by."""
    kinds = {key: kind for key, hint in hints_of(cls).items() if (kind := kind_of(hint))}
    values: dict[str, Node] = dict(table.value)
    inner: Plain = dict.fromkeys(kinds)
    for key, node in table.value.items():
        if key in kinds and node.value is not None:
            node = _policy(registry, node, policy) if kinds[key] == "policy" else named(node)
            part, inner[key] = build_part(registry, kinds[key], node, f"{path}.{key}", policy)
            values[key] = Node(part, node.where)
    return Node(values, table.where), inner


def _policy(registry: Registry, node: Node, name: str) -> Node:
    """The table of a policy within a part: its name goes without saying, and a string that is none is a model."""
    known = registry.names("policy")
    default = Node(name or known[0], node.where) if name or len(known) == 1 else None
    if isinstance(node.value, str) and default is not None and not registry.has("policy", node.value):
        return Node({"name": default, "model": node}, node.where)
    if node.is_table and "name" not in node.value and default is not None:
        return Node({"name": default, **node.value}, node.where)
    return named(node)


def _ready(kind: str, node: Node, path: str) -> Any:
    """A live object in the place of a part."""
    if node.value is None or isinstance(node.value, bool | int | float | list | type):
        raise RecipeError(f"{node.where}: {path}: found {show(node.plain())}, allowed: a table or a name")
    try:
        check_part(kind, path, node.value)
    except PluginError as error:
        raise RecipeError(f"{node.where}: {error}") from error
    check_finite(node.value, node, path)
    return node.value


def _live(value: Any) -> str:
    return f"<{type(value).__name__} object>"
