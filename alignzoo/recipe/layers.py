"""A recipe's layers -> one table for each stage: top level, stage, [tasks.X], overrides, the later over the earlier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, reduce

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.overrides import TO_ALL, TO_LAST, Changes, Overrides, normal, parse, route
from alignzoo.recipe.parts import show
from alignzoo.recipe.rounds import KEYS, ROUND, Placed, Round, addressed, names_of, unrolled
from alignzoo.recipe.tables import STAGE_REFERENCE, Node, merge
from alignzoo.registry.registrar import NAME

PARTS = (*TO_ALL, *TO_LAST)
"""What a stage holds, and what the top level holds as defaults for every stage."""

OF_ALL_BY_TASK = ("policy", "data", "evaluate", "seed")
"""What [tasks.X] changes in every stage; its other parts are the last stage's."""

LONGEST = 64
"""Letters of a name that folders and files are called by."""


@dataclass(frozen=True)
class Layered:
    """A stage, its layers laid over one another."""

    name: str
    table: Node
    """A node for each of `PARTS` that is given."""
    changed_rewards: list[tuple[list[str], Node]]
    """What overrides change in single rewards."""
    earlier: list[str]
    """The stages before it."""
    round: Round | None = None
    """Which round it is, of a stage that the recipe repeats."""


def layered(root: Node, overrides: Overrides, tasks: Collection[str]) -> list[Layered]:
    """The stages of a recipe; `tasks` are the registered ones, for misspelt ones to be noticed."""
    _check_keys(root, ("name", "description", "variant_of", "stage", "tasks", *PARTS), "a recipe")
    placed, rest = unrolled(_stages(root), parse(overrides))
    by_task = _by_task(root, list(names_of(placed)), tasks)
    changes = route(rest, placed)
    found = []
    for here, stage in enumerate(placed):
        address = partial(addressed, here=here, placed=placed)
        own = changes[stage.name].mapped(address)
        layers = [address(_parts(each, PARTS)) for each in (root, stage.block, stage.table)]
        table = Node(reduce(merge, layers).value, stage.table.where)
        table = _with_task(table, stage, by_task, own, address, last=stage.base == placed[-1].base)
        table = merge(merge(table, own.broad, broad=True), own.own)
        earlier = [each.name for each in placed[:here]]
        check_references(stage.name, table, earlier)
        found.append(Layered(stage.name, table, own.rewards, earlier, stage.round))
    return found


def _stages(root: Node) -> list[Node]:
    """The [[stage]] tables, and those within blocks, each with a name of its own."""
    stages = root.value.get("stage")
    if stages is None or stages.value == []:
        raise RecipeError(f"{root.where}: there is no stage; a recipe needs one [[stage]] or more")
    if not stages.is_list or not all(stage.is_table for stage in stages.value):
        raise RecipeError(f"{stages.where}: stage: found {show(stages.plain())}, allowed: tables, each under [[stage]]")
    seen: dict[str, Node] = {}
    inner = [each for stage in stages.value if "stage" in stage.value for each in _block(stage)]
    for index, stage in enumerate([*stages.value, *inner]):
        within = index >= len(stages.value)
        keys = () if within else ("stage", ROUND, *KEYS)
        _check_keys(stage, ("name", *keys, *PARTS), "a stage of a block" if within else "a stage")
        name = stage.value.get("name")
        if name is None:
            raise RecipeError(f"{stage.where}: this stage has no name")
        if not isinstance(name.value, str) or not NAME.fullmatch(name.value) or name.value in PARTS:
            raise RecipeError(
                f"{name.where}: stage.name: found {show(name.plain())}, allowed: letters, digits, '-' and '_', "
                f"but none of {', '.join(PARTS)}"
            )
        if len(name.value) > LONGEST:
            raise RecipeError(
                f"{name.where}: stage.name: found {len(name.value)} letters, allowed: {LONGEST}, as a folder's name"
            )
        if name.value in seen:
            first = seen[name.value].where
            raise RecipeError(f"{name.where}: a second stage is called {name.value!r}; the first is at {first}")
        seen[name.value] = name
    return list(stages.value)


def _block(stage: Node) -> list[Node]:
    """The [[stage.stage]] tables."""
    inner = stage.value["stage"]
    if not inner.is_list or not inner.value or not all(each.is_table for each in inner.value):
        found = show(inner.plain())
        raise RecipeError(f"{inner.where}: stage.stage: found {found}, allowed: tables, each under [[stage.stage]]")
    return list(inner.value)


def _by_task(root: Node, stages: Sequence[str], tasks: Collection[str]) -> dict[str, Node]:
    """The [tasks.X] tables, checked also where no stage is about X."""
    found = root.value.get("tasks", Node({}, root.where))
    parts = [part for part in PARTS if part != "task"]
    for task, table in _tables(found, "tasks"):
        # A task of a plugin that is not installed is no mistake, but a misspelt one would change nothing silently.
        if task not in tasks and get_close_matches(task, tasks):
            raise RecipeError(f"{table.where}: tasks.{task}: there is no such task. {did_you_mean(task, tasks)}")
        _check_keys(table, ["stage", *parts], f"tasks.{task}")
        for stage, changes in _tables(table.value.get("stage", Node({}, table.where)), f"tasks.{task}.stage"):
            if stage not in stages:
                hint = did_you_mean(stage, stages)
                raise RecipeError(f"{changes.where}: tasks.{task}.stage.{stage}: there is no such stage. {hint}")
            _check_keys(changes, parts, f"tasks.{task}.stage.{stage}")
    return dict(found.value)


def _with_task(
    table: Node,
    stage: Placed,
    by_task: dict[str, Node],
    changes: Changes,
    address: Callable[[Node], Node],
    *,
    last: bool,
) -> Node:
    """The table with what [tasks.X] changes in it."""
    task = merge(merge(table, changes.broad), changes.own).value.get("task")
    if task is None or not task.is_table or "name" not in task.value:
        return table
    changed = by_task.get(str(task.value["name"].value).rpartition("/")[2])
    if changed is None:
        return table
    table = merge(table, address(_parts(changed, OF_ALL_BY_TASK)), broad=True)
    if last:
        table = merge(table, address(_parts(changed, [part for part in TO_LAST if part not in OF_ALL_BY_TASK])))
    of_stage = changed.value.get("stage")
    for name in stage.called if of_stage is not None else ():
        if name in of_stage.value:
            table = merge(table, address(_parts(of_stage.value[name], PARTS)))
    return table


def _parts(table: Node, parts: Iterable[str]) -> Node:
    """Those of these parts that a table gives, in full form."""
    return Node({part: normal(part, table.value[part]) for part in parts if part in table.value}, table.where)


def _tables(node: Node, path: str) -> Iterable[tuple[str, Node]]:
    if not node.is_table:
        raise RecipeError(f"{node.where}: {path}: found {show(node.plain())}, allowed: tables, as in [{path}.NAME]")
    for key, table in node.value.items():
        if not table.is_table:
            raise RecipeError(f"{table.where}: {path}.{key}: found {show(table.plain())}, allowed: a table")
        yield key, table


def _check_keys(table: Node, known: Sequence[str], what: str) -> None:
    for key, node in table.value.items():
        if key not in known:
            raise RecipeError(f"{node.where}: {key!r} is no key of {what}. {did_you_mean(key, known)}")


def check_references(path: str, table: Node, earlier: Sequence[str]) -> None:
    """Raise where "stage:NAME" is no earlier stage."""
    for place, node in table.leaves(path):
        name = node.value.removeprefix(STAGE_REFERENCE) if node.is_reference else None
        if name is not None and name not in earlier:
            hint = did_you_mean(name, earlier)
            raise RecipeError(f"{node.where}: {place}: {node.value!r} is no earlier stage. {hint}")
