"""A recipe's layers -> one table for each stage: top level, stage, [sizes.X], [adapter], [tasks.X], overrides, the
later over the earlier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, reduce

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.overrides import TO_ALL, TO_LAST, Changes, Overrides, normal, parse, route
from alignzoo.recipe.parts import show
from alignzoo.recipe.rounds import KEYS, ROUND, Placed, Round, addressed, mapped, names_of, unrolled
from alignzoo.recipe.sizes import SIZES, sized
from alignzoo.recipe.tables import STAGE_REFERENCE, TASK_REFERENCE, Node, merge
from alignzoo.registry.registrar import NAME

PARTS = (*TO_ALL, *TO_LAST)
"""What a stage holds, and what the top level holds as defaults for every stage."""

OF_ALL_BY_TASK = ("policy", "data", "evaluate", "seed")
"""What [sizes.X], [adapter] and [tasks.X] change in every stage; their other parts are the last stage's."""

ADAPTER = "adapter"
"""The table of what changes where an adapter is trained instead of every weight."""

RANK = "lora_rank"
"""The policy's setting that says so."""

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
    _check_keys(root, ("name", "description", "variant_of", "stage", SIZES, ADAPTER, "tasks", *PARTS), "a recipe")
    size, given = sized(root, parse(overrides))
    placed, rest = unrolled(_stages(root), given)
    stages = list(names_of(placed))
    by_task = _by_task(root, stages, tasks)
    adapter = root.value.get(ADAPTER, Node({}, root.where))
    _check_layer(adapter, ADAPTER, stages)
    for key, table in _tables(root.value.get(SIZES, Node({}, root.where)), SIZES):
        _check_layer(table, f"{SIZES}.{key}", stages)
    changes = route(rest, placed)
    found: list[Layered] = []
    own: set[str] = set()
    is_sized = False
    for here, stage in enumerate(placed):
        address = partial(addressed, here=here, placed=placed)
        changed = changes[stage.name].mapped(address)
        layers = [address(_parts(each, PARTS)) for each in (root, stage.block, stage.table)]
        table = Node(reduce(merge, layers).value, stage.table.where)
        asked = _overridden(table, changed)
        extra = [size, adapter] if _trains_adapter(asked) else [size]
        if _is_own(asked, own):
            own.add(stage.name)
            is_sized = True
        else:
            of_task = _of_task(asked, by_task)
            extra += of_task
            is_sized |= not of_task
        for each in extra:
            table = _with_layer(table, each, stage, address, last=stage.base == placed[-1].base)
        table = _overridden(_with_own_model(table, changed.broad), changed)
        earlier = [each.name for each in placed[:here]]
        check_references(stage.name, table, earlier)
        found.append(Layered(stage.name, table, changed.rewards, earlier, stage.round))
    if size.value and not is_sized:
        raise RecipeError(
            f"{size.where}: sizes: they are for a model or data of your own, and this run has neither: what it says of "
            "its tasks, [tasks.X], is for these. Leave the size, or give policy.model or data.path"
        )
    return found


def _overridden(table: Node, changes: Changes) -> Node:
    """The table with a stage's overrides. Data that are meant for every stage are not for one that reads what an
    earlier stage generated: only what becomes of long rows is."""
    broad, data = changes.broad, table.value.get("data")
    path = data.value.get("path") if data is not None and data.is_table else None
    if path is not None and path.is_reference and "data" in broad.value:
        given = broad.value["data"]
        kept = {key: node for key, node in given.value.items() if key == "too_long"} if given.is_table else {}
        broad = broad.with_values(data=Node(kept, given.where))
    return merge(merge(table, broad, broad=True), changes.own)


def _is_own(table: Node, own: Collection[str]) -> bool:
    """Whether a stage trains on data of one's own, or a model of one's own, as stages `own` do: [tasks.X] says what
    suits a task's own data and model, and nothing of others."""
    return any(_is_users(table.value.get(part), key, own) for part, keys in OWN.items() for key in keys)


def _with_own_model(table: Node, broad: Node) -> Node:
    """The table in which a model that is given for every stage stands wherever the task's does: a reference that a
    policy keeps in all rounds is the user's model then, and not one of another task with other tokens."""
    policy = broad.value.get("policy")
    model = policy.value.get("model") if policy is not None and policy.is_table else None
    if model is None or model.is_reference or not model.value or str(model.value).startswith(TASK_REFERENCE):
        return table
    return mapped(table, lambda leaf: model if leaf.value in TASK_MODELS else leaf)


TASK_MODELS = (f"{TASK_REFERENCE}policy", f"{TASK_REFERENCE}base")
"""What stands for a model of the stage's task."""

OWN = {"data": ("path", "rows", "mix"), "policy": ("model",)}
"""Where a stage says whose data it is trained on, and whose model is trained."""


def _is_users(part: Node | None, key: str, own: Collection[str]) -> bool:
    if part is None or part.value is None:
        return False
    value = part.value.get(key, Node("", part.where)).value if part.is_table else part.value
    if not isinstance(value, str):
        return value is not None  # a live object
    if value.startswith(STAGE_REFERENCE):
        return value.removeprefix(STAGE_REFERENCE) in own
    return bool(value) and not value.startswith(TASK_REFERENCE)


def _trains_adapter(table: Node) -> bool:
    policy = table.value.get("policy")
    return policy is not None and policy.is_table and bool(policy.value.get(RANK, Node(0, "")).value)


def _of_task(table: Node, by_task: Sequence[tuple[tuple[str, ...], Node]]) -> list[Node]:
    """What [tasks.X] says of the stage's task, in the order of the recipe."""
    task = table.value.get("task")
    if task is None or not task.is_table or "name" not in task.value:
        return []
    name = str(task.value["name"].value).rpartition("/")[2]
    return [changed for names, changed in by_task if name in names]


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


def _by_task(root: Node, stages: Sequence[str], tasks: Collection[str]) -> list[tuple[tuple[str, ...], Node]]:
    """The [tasks.X] tables with the tasks that each is for, one or several: [tasks."X, Y"]. They are checked also where
    no stage is about X."""
    found = []
    for key, table in _tables(root.value.get("tasks", Node({}, root.where)), "tasks"):
        names = tuple(name.strip() for name in key.split(","))
        for task in names:
            # A task of a plugin that is not installed is no mistake, but a misspelt one would change nothing silently.
            if task not in tasks and get_close_matches(task, tasks):
                raise RecipeError(f"{table.where}: tasks.{task}: there is no such task. {did_you_mean(task, tasks)}")
        _check_layer(table, f"tasks.{key}", stages)
        found.append((names, table))
    return found


def _check_layer(table: Node, path: str, stages: Sequence[str]) -> None:
    """Raise where [sizes.X], [adapter] or [tasks.X] speaks of a part or a stage that there is not."""
    if not table.is_table:
        raise RecipeError(f"{table.where}: {path}: found {show(table.plain())}, allowed: a table")
    parts = [part for part in PARTS if part != "task"]
    _check_keys(table, ["stage", *parts], path)
    for stage, changes in _tables(table.value.get("stage", Node({}, table.where)), f"{path}.stage"):
        if stage not in stages:
            hint = did_you_mean(stage, stages)
            raise RecipeError(f"{changes.where}: {path}.stage.{stage}: there is no such stage. {hint}")
        _check_keys(changes, parts, f"{path}.stage.{stage}")


def _with_layer(table: Node, layer: Node, stage: Placed, address: Callable[[Node], Node], *, last: bool) -> Node:
    """The table with what [sizes.X], [adapter] or [tasks.X] changes in it."""
    table = merge(table, address(_parts(layer, OF_ALL_BY_TASK)), broad=True)
    if last:
        table = merge(table, address(_parts(layer, [part for part in TO_LAST if part not in OF_ALL_BY_TASK])))
    of_stage = layer.value.get("stage")
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
