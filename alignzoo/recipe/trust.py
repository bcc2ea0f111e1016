"""Which settings of a recipe name code, that a run would then run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alignzoo.recipe.parts import hints_of, kind_of
from alignzoo.recipe.tables import Node, named
from alignzoo.registry import Registry


@dataclass(frozen=True)
class Code:
    """A setting that names code."""

    kind: str
    """The kind of the part that runs it: "reward", "policy"."""
    key: str
    value: str | bool
    where: str
    """Where the setting was written."""

    def __str__(self) -> str:
        return f"{self.where}: {self.key} = {self.value!r}"


def code_of(registry: Registry, kind: str, node: Node, path: str) -> Iterator[Code]:
    """The settings of a part's table, and of the parts in it, that name code. A part declares which of its fields do,
    `runs_code: ClassVar[tuple[str, ...]]`; a live object of Python's is code that is there already."""
    name = node.value["name"].value if node.is_table and "name" in node.value else None
    if not isinstance(name, str) or not registry.has(kind, name):
        return
    target = registry.get(kind, name)
    if not isinstance(target, type):
        return
    for key in getattr(target, "runs_code", ()):
        given = node.value.get(key)
        if given is not None and given.value and isinstance(given.value, str | bool):
            yield Code(kind, f"{path}.{key}", given.value, given.where)
    for key, hint in hints_of(target).items():
        if key in node.value and (inner := kind_of(hint)):
            yield from code_of(registry, inner, named(node.value[key]), f"{path}.{key}")
