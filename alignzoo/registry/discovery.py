"""Where plugins come from: entry points of the group `alignzoo`, loose files, and the package's own recipes.

Finding a plugin does not import it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import alignzoo
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.importing import beside, loose_name
from alignzoo.registry.failure import Failure
from alignzoo.registry.interrupts import watched
from alignzoo.registry.registrar import Origin, Registration, about_recipe
from alignzoo.registry.source import find_spec

ONLY = "ALIGNZOO_PLUGINS"
"""The environment variable that restricts the entry points to these, separated by commas."""


@dataclass
class Plugin:
    """A plugin and how far it has been read."""

    origin: Origin
    load: Callable[[], object]
    """Imports it."""
    source: Path | None = None
    """Its file, or its package's `__init__.py`."""
    static: bool = True
    """Its source may say what it registers."""
    asked: bool = False
    """Named by the user, not merely installed."""
    api: str = ""
    """The API version that it was written for; empty where it does not say."""
    registrations: dict[tuple[str, str], Registration] = field(default_factory=dict)
    """By kind and name."""
    objects: dict[tuple[str, str], Any] = field(default_factory=dict)
    """What has been imported of it."""
    loaded: object = None
    failure: Failure | None = None

    @property
    def by_hand(self) -> bool:
        """Added as an object, and replaced when it is added again."""
        return not self.static and not self.origin.distribution

    @property
    def first_party(self) -> bool:
        """Whether it is of alignzoo's own distribution: nobody who is merely installed takes its names."""
        return self.origin.distribution == "alignzoo"

    def raise_if_asked(self) -> None:
        if self.asked and self.failure:
            raise PluginError(str(self.failure))


def entry_points(without: Collection[str] = ()) -> list[tuple[importlib.metadata.EntryPoint, str]]:
    """The entry points that are wanted, but for those `without` names, each with a name of its own."""
    points = sorted(importlib.metadata.entry_points(group="alignzoo"), key=lambda point: (point.name, point.value))
    if ONLY in os.environ:
        wanted = {name.strip() for name in os.environ[ONLY].split(",") if name.strip()}
        for name in sorted(wanted.difference(point.name for point in points)):
            hint = did_you_mean(name, {point.name for point in points})
            raise PluginError(f"{ONLY} names {name!r}: there is no such plugin. {hint}")
        points = [point for point in points if point.name in wanted]
    for name in sorted(set(without).difference(point.name for point in points)):
        hint = did_you_mean(name, {point.name for point in points})
        raise PluginError(f"there is no plugin {name!r} to leave out. {hint}")
    points = [point for point in points if point.name not in without]
    times = Counter(["alignzoo", *(point.name for point in points)])
    return [(p, p.name if times[p.name] == 1 else f"{p.dist.name if p.dist else ''}:{p.name}") for p in points]


def installed(point: importlib.metadata.EntryPoint, name: str) -> Plugin:
    """The plugin of an entry point, found but not imported."""
    plugin = Plugin(Origin(name, *(_distribution(point.dist) if point.dist else ())), point.load)
    with watched() as is_ctrl_c:
        try:
            plugin.origin = replace(plugin.origin, module=point.module)
            spec = find_spec(point.module)
        except BaseException as error:  # a parent package is imported, and may raise anything
            if is_ctrl_c(error):
                raise
            plugin.failure = Failure.of(plugin.origin, error, None)
            return plugin
    if spec.origin and spec.origin.endswith(".py"):
        plugin.source = Path(spec.origin).resolve()
        plugin.origin = replace(plugin.origin, folder=plugin.source.parent)
        plugin.static = not point.attr
    return plugin


@functools.cache
def _distribution(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Its name and version; both are parsed from a file, so once for all of its entry points."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


def own_recipes(recipes: Path) -> Plugin:
    """The package's recipes, as if they were a plugin's."""
    origin = Origin("alignzoo", "alignzoo", alignzoo.__version__)
    files = sorted(recipes.glob("[!_]*.toml"))
    found = [origin.registration("recipe", file.stem, str(file), about_recipe(file)) for file in files]
    registrations = {(each.kind, each.name): each for each in found}
    return Plugin(origin, lambda: alignzoo, recipes, registrations=registrations, loaded=alignzoo)


def import_file(path: Path) -> ModuleType:
    """Import a loose file once, under a name that can hide no installed module; it may import its neighbours."""
    name = loose_name(path)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            with beside(path.resolve().parent):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def forget(plugin: Plugin, known: Collection[str]) -> None:
    """Drop a plugin's modules that were not `known` before: imported again, they do again what they did."""
    home = plugin.source.parent if plugin.source and plugin.source.name == "__init__.py" else plugin.source
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if home is not None and file and name not in known and Path(file).resolve().is_relative_to(home):
            del sys.modules[name]


def digest(source: Path | None) -> str:
    """SHA-256 of a plugin's file, or of all Python and TOML files of its package; empty when there is none."""
    if source is None:
        return ""
    if source.is_file() and source.name != "__init__.py":
        return sha256(source.read_bytes()).hexdigest()
    folder = source.parent if source.is_file() else source
    files = sorted(file for pattern in ("*.py", "*.toml") for file in folder.rglob(pattern))
    total = sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()
