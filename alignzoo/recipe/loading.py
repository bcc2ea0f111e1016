"""Recipes: TOML, overrides and the registry's parts -> the stages of a run, every default filled in."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.errors import PluginError, RecipeError
from alignzoo.former import CHANGES
from alignzoo.recipe.layers import LONGEST, layered
from alignzoo.recipe.named import Plain, with_parts
from alignzoo.recipe.outputs import connected
from alignzoo.recipe.overrides import Overrides, normal, parse
from alignzoo.recipe.parts import build, checked, show
from alignzoo.recipe.stages import Stage, build_stage
from alignzoo.recipe.tables import Node, merge, read_manifest, read_toml
from alignzoo.recipe.trust import Code
from alignzoo.registry import Registry
from alignzoo.registry.registrar import needs_of
from alignzoo.traits import traits_of

__all__ = ["Overrides", "Recipe", "Stage", "load", "part"]

FOLDER = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*")
"""A recipe's name."""

ONLINE, OFFLINE = "_online.toml", "_offline.toml"
"""The generic recipes: for optimizers that learn from what the policy has just written, and for the others."""


OLD_LOGPROBS = "old_logprobs"
"""The column that alignzoo 0.1 told online optimizers by."""


@dataclass(frozen=True)
class Recipe:
    """What to run, stage by stage."""

    name: str
    description: str
    stages: tuple[Stage, ...]
    resolved: Plain = field(compare=False, repr=False)
    """The whole recipe as plain data, for the manifest's "recipe": read back, it gives an equal recipe."""
    code: tuple[Code, ...] = field(default=(), compare=False, repr=False)
    """The settings in the recipe's own file that name code; what a registered recipe or an override names is not one
    of them."""


def load(name_or_path: str | Path, overrides: Overrides = (), *, registry: Registry) -> Recipe:
    """The recipe of a name, a TOML file or an earlier run's manifest.json, or the generic one of an optimizer's name.

    A later layer wins over an earlier one, key by key: the dataclasses' defaults, the recipe's top level, a stage's
    own tables, [tasks.X] where the stage's task is X, the overrides.
    """
    root, name = _find(str(name_or_path), registry)
    layers = layered(root, overrides, registry.names("task"))
    stages = connected([build_stage(stage, registry) for stage in layers])
    name, description = (_text(root, key, default) for key, default in (("name", name), ("description", "")))
    _text(root, "variant_of", "")
    resolved = {"name": name, "description": description, "stage": [stage.resolved for stage in stages]}
    registered = any(registry.has(kind, str(name_or_path)) for kind in ("recipe", "optimizer"))
    file = "" if registered else root.where
    code = tuple(each for stage in stages for each in stage.code if file and each.where.startswith(file))
    return Recipe(name, description, stages, resolved, code)


def part(target: Any, settings: Overrides, name: str, *, registry: Registry) -> Any:
    """A single part by itself: a registered class with these settings, or the ready object that was registered."""
    table = Node({}, name)
    for keys, node in parse(settings):
        if not isinstance(target, type):
            raise RecipeError(f"{node.where}: {name} has no setting {'.'.join(keys)!r}")
        for key in reversed(keys):
            node = Node({key: node}, node.where)
        table = merge(table, node)
    return build(target, with_parts(registry, target, table, name)[0], name) if isinstance(target, type) else target


def _find(name: str, registry: Registry) -> tuple[Node, str]:
    """The recipe's text as nodes, and its name unless it says another."""
    path = Path(name)
    if path.suffix == ".toml":
        return read_toml(path), path.stem
    if path.suffix == ".json":
        return read_manifest(path), path.stem
    if not registry.has("recipe", name) and registry.has("optimizer", name):
        name = registry.canonical("optimizer", name)
    if registry.has("recipe", name):
        return read_toml(registry.get("recipe", name)), registry.registration("recipe", name).name
    if registry.has("optimizer", name):
        optimizer = registry.get("optimizer", name)
        _check_says_online(name, optimizer)
        online = traits_of(optimizer).online
        root = read_toml(registry.recipes / (ONLINE if online else OFFLINE))
        summary = registry.registration("optimizer", name).summary
        return _with_optimizer(root, name, summary), name.rpartition("/")[2]
    if path.is_file():
        return read_toml(path), path.stem
    if (path / "manifest.json").is_file():
        return read_manifest(path / "manifest.json"), path.name
    raise RecipeError(registry.unknown(["recipe", "optimizer"], name))


def _check_says_online(name: str, optimizer: Any) -> None:
    """Raise PluginError for an optimizer that alignzoo 0.1 took for an online one by its columns alone."""
    if OLD_LOGPROBS in needs_of(optimizer) and inspect.getattr_static(optimizer, "online", None) is None:
        raise PluginError(
            f"optimizer {name!r} needs {OLD_LOGPROBS!r}, by which alignzoo 0.1 knew that its recipe samples from the "
            "policy; now it says so: online: ClassVar[bool] = True, or False where it is trained on given completions. "
            f"{CHANGES}"
        )


def _with_optimizer(root: Node, name: str, summary: str) -> Node:
    """A generic recipe whose last stage has this optimizer, described as that is."""
    if summary:
        root = Node(root.value | {"description": Node(summary, f"optimizer {name!r}")}, root.where)
    stages = root.value.get("stage", Node([], root.where))
    if not stages.is_list or not stages.value:
        return root  # what is wrong is said when the stages are read
    optimizer = Node({"optimizer": normal("optimizer", Node(name, f"optimizer {name!r}"))}, root.where)
    *others, last = stages.value
    return Node(root.value | {"stage": Node([*others, merge(last, optimizer)], stages.where)}, root.where)


def _text(root: Node, key: str, default: str) -> str:
    text: str = checked(str, root.value[key], key) if key in root.value else default
    if key == "name" and (not FOLDER.fullmatch(text) or len(text) > LONGEST):
        where = root.value[key].where if key in root.value else root.where
        raise RecipeError(
            f"{where}: name: found {show(text)[:90]}, allowed: a folder's name of at most {LONGEST} letters, without "
            "'/' and not beginning with '.', for runs/NAME-001 is called so"
        )
    return text
