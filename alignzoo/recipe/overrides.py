"""`key=value`: parsing overrides, and sending each to the stages that it is meant for."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.files import toml_decoded
from alignzoo.recipe.parts import build
from alignzoo.recipe.rounds import Override, Placed, names_of
from alignzoo.recipe.tables import Node, merge, named, tree

NAMED = ("task", "policy", "sampler", "optimizer")
"""The parts of a stage that are one table with a name; a string stands for {name = string}."""

TO_ALL = ("task", "seed", "policy", "data")
"""What goes to every stage when no stage is named."""

TO_LAST = ("sampler", "reward", "optimizer", "schedule", "evaluate")
"""What goes to the last stage when no stage is named."""

Overrides: TypeAlias = Sequence[str | tuple[str, Any]] | Mapping[str, Any]
"""As the command line has them, "rl.optimizer.clip=0.1"; or such keys with their values, which may be live objects."""


@dataclass
class Changes:
    """What the overrides change in one stage."""

    broad: Node = field(default_factory=lambda: Node({}, "overrides"))
    """Meant for every stage."""
    own: Node = field(default_factory=lambda: Node({}, "overrides"))
    """Meant for this one."""
    rewards: list[tuple[list[str], Node]] = field(default_factory=list)
    """Overrides of single rewards: an index and a field, or a field when there is one reward; or an index alone."""

    def mapped(self, change: Callable[[Node], Node]) -> Changes:
        """The same with every node changed."""
        return Changes(change(self.broad), change(self.own), [(keys, change(node)) for keys, node in self.rewards])


def route(overrides: Iterable[Override], stages: Sequence[Placed]) -> dict[str, Changes]:
    """The changes of every stage; what is said of a stage with rounds is meant for all of them."""
    changes = {stage.name: Changes() for stage in stages}
    known = list(names_of(stages))
    for keys, node in overrides:
        first, *rest = keys
        if first in known:
            for below, value in _below(rest, node):
                for stage in stages:
                    if first in stage.called:
                        _change(changes[stage.name], below, value)
        elif first in TO_LAST:
            for stage in stages:
                if stage.base == stages[-1].base:
                    _change(changes[stage.name], keys, node)
        elif first in TO_ALL:
            for change in changes.values():
                change.broad = merge(change.broad, _nest(keys, node))
        else:
            hint = did_you_mean(first, [*known, *TO_ALL, *TO_LAST])
            raise RecipeError(f"{node.where}: {first!r} is neither a stage nor a part of one. {hint}")
    return changes


def normal(part: str, node: Node) -> Node:
    """A part's table, where a recipe or an override may say less: a name, a path, a single reward."""
    if part == "reward":
        rewards = node.value if node.is_list else [node]
        return Node([named(reward) for reward in rewards], node.where)
    if part in NAMED:
        return named(node)
    return _data(node) if part == "data" else node


def _data(node: Node) -> Node:
    """The user's data as a table, also where Python gives rows, a dataset or a `Data`: so that any other setting of
    `data` lies over them."""
    if isinstance(node.value, str | Path):
        return Node({"path": Node(str(node.value), node.where)}, node.where)
    if node.value is None or isinstance(node.value, bool | int | float):
        return node  # refused where it is read
    from alignzoo.data import Data, Rows

    if isinstance(node.value, Data):
        given = {each.name: getattr(node.value, each.name) for each in fields(Data)}
        rows = given.pop("rows")
        wrapped = rows if rows is None or isinstance(rows, Rows) else Rows(rows)
        return tree(given, lambda key: node.where).with_values(rows=Node(wrapped, node.where))
    if node.is_table and "mix" in node.value and _is_mixture(node.value["mix"].plain()):
        return node.with_values(mix=_sources(node.value["mix"]))
    if node.is_table and not _splits(node, {"kind", *(each.name for each in fields(Data))}):
        return node
    if _is_mixture(node.plain()):
        return Node({"mix": _sources(node)}, node.where)
    rows = node.plain()
    live = Rows(list(rows) if isinstance(rows, Iterator) else rows)
    return Node({"rows": Node(live, node.where), "path": Node("", node.where)}, node.where)


def _is_mixture(given: Any) -> bool:
    """Whether a list is one of sources, some of which have a place and settings, perhaps misspelt, and none columns as
    rows have."""
    from alignzoo.data import Part

    known = [each.name for each in fields(Part)]
    if not isinstance(given, list | tuple) or not given:
        return False
    sources = [
        isinstance(each, Part)
        or (
            isinstance(each, Mapping)
            and ("path" in each or "rows" in each)
            and all(get_close_matches(str(key), known, n=1, cutoff=0.7) for key in each)
        )
        for each in given
    ]
    others = [each for each, source in zip(given, sources, strict=True) if not source]
    return any(sources) and not any(isinstance(each, Mapping) for each in others)


def _sources(node: Node) -> Node:
    """The sources of a mixture; live rows as objects, which a recipe carries and shows as what they are."""
    from alignzoo.data import Part, Rows

    found = []
    for number, each in enumerate(node.plain()):
        part = each if isinstance(each, Part) else None
        if part is None and not isinstance(each, Mapping):
            raise RecipeError(
                f"{node.where}: data.{number}: found {each!r}, allowed: a table of a source's settings, as in "
                '{path = "pairs.jsonl", weight = 0.5}'
            )
        if part is None:
            live = {key: Rows(value) if key == "rows" and value is not None else value for key, value in each.items()}
            part = build(Part, tree(live, lambda key: node.where), f"data.{number}")
        wrapped = part.rows is None or isinstance(part.rows, Rows)
        found.append(part if wrapped else replace(part, rows=Rows(part.rows)))
    return Node(tuple(found), node.where)


def _splits(node: Node, settings: set[str]) -> bool:
    """Whether a mapping is a dictionary of datasets by their splits, and no table of settings."""
    scalars = (str, bool, int, float, type(None))
    values = node.value
    return bool(values) and not any(key in settings or isinstance(each.value, scalars) for key, each in values.items())


def parse(overrides: Overrides) -> Iterator[tuple[list[str], Node]]:
    """The keys and the value of each override."""
    for text in overrides.items() if isinstance(overrides, Mapping) else overrides:
        if not isinstance(text, str):
            yield _override(*text, f"override {text[0]!r}")
            continue
        key, equals, value = text.partition("=")
        where = f"override {text!r}"
        if not equals:
            raise RecipeError(f"{where}: expected key=value, as in optimizer.epochs=2")
        yield _override(key.strip(), _value(value.strip(), where), where)


def _override(key: str, value: Any, where: str) -> tuple[list[str], Node]:
    keys = key.split(".")
    if not all(keys):
        raise RecipeError(f"{where}: expected a key with dots, as in optimizer.epochs, found {key!r}")
    return keys, tree(value, lambda path: where, tuple(keys))


def _value(text: str, where: str) -> Any:
    """A TOML value, or a bare word as a string; so is what TOML takes for a date, a directory's name more likely."""
    if unprintable := [letter for letter in text if "\ud800" <= letter <= "\udfff"]:
        raise RecipeError(f"{where!a}: {unprintable[0]!a} is no character: the terminal's text is not UTF-8")
    try:
        found = toml_decoded(f"value = {text}", where)
    except tomllib.TOMLDecodeError as error:
        if text.startswith(("[", "{", '"', "'")):
            raise RecipeError(f"{where}: {text!r} is not a TOML value: {error}") from error
        return text
    data = found.keys() == {"value"} and isinstance(found["value"], bool | int | float | str | list | dict)
    return found["value"] if data else text


def _below(keys: list[str], node: Node) -> Iterator[tuple[list[str], Node]]:
    """What is changed within a stage, also where a mapping gives several of its parts at once."""
    if keys:
        yield keys, node
    elif node.is_table:
        for part, value in node.value.items():
            yield [part], value
    else:
        raise RecipeError(f"{node.where}: a stage is no value; change a part of it, as in rl.optimizer.epochs=2")


def _change(change: Changes, keys: list[str], node: Node) -> None:
    part, *rest = keys
    if part not in TO_ALL + TO_LAST:
        raise RecipeError(f"{node.where}: {part!r} is no part of a stage. {did_you_mean(part, TO_ALL + TO_LAST)}")
    if part == "reward" and rest:
        change.rewards.append((rest, node))
        return
    if part == "reward" and node.is_table and "name" not in node.value:
        change.rewards += [([key], value) for key, value in node.value.items()]
        return
    change.own = merge(change.own, _nest(keys, node))


def _nest(keys: Sequence[str], node: Node) -> Node:
    """{a: {b: node}} of the keys a, b."""
    part, *rest = keys
    for key in reversed(rest):
        node = Node({key: node}, node.where)
    return Node({part: normal(part, node)}, node.where)
