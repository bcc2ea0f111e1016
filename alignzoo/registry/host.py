"""Every plugin there is: listed without importing it, loaded when asked for, and loud when it cannot be.

A plugin is an entry point of the group `alignzoo`, a loose file, or an object of a notebook; all three end as the
same `Registration` and give the same object. Importing this imports no torch.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pluggy

from alignzoo import hookspecs
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.registry.discovery import Plugin, digest, entry_points, import_file, installed, own_recipes
from alignzoo.registry.failure import Failure, plain_traceback
from alignzoo.registry.registrar import KINDS, Origin, Registrar, Registration, check_part
from alignzoo.registry.source import declared

__all__ = ["KINDS", "Failure", "Registrar", "Registration", "Registry"]

RECIPES = Path(__file__).parents[1] / "recipes"
"""The package's own recipes; those that begin with "_" are not listed."""

Failures: TypeAlias = list[Failure]
Registrations: TypeAlias = list[Registration]
Names: TypeAlias = list[str]
Answers: TypeAlias = list[Any]


class Registry:
    """The plugins of this environment, and those that are added."""

    def __init__(
        self, *, recipes: Path = RECIPES, without: Sequence[str] = (), warn: Callable[[str], None] | None = None
    ) -> None:
        self.recipes = recipes
        """The folder of the package's own recipes."""
        self._warn = warn or _warn
        self._manager = pluggy.PluginManager("alignzoo")
        self._manager.add_hookspecs(hookspecs)
        self._plugins: dict[str, Plugin] = {"alignzoo": own_recipes(recipes)}
        for point, name in entry_points(without):
            self._take(installed(point, name))

    # --- what there is ----------------------------------------------------------------------------------------

    def list(self, kind: str | None = None) -> Registrations:
        """What is registered, by kind and name, without importing what need not be."""
        if kind is not None:
            _check_kind(kind)
        listed = [each for each in self._registrations() if kind in (None, each.kind)]
        return sorted(map(self._with_conflicts, listed), key=lambda r: (KINDS.index(r.kind), r.name, r.plugin))

    def names(self, kind: str) -> Names:
        """The registered names of a kind."""
        return sorted({each.name for each in self.list(kind)})

    def has(self, kind: str, name: str) -> bool:
        """Whether a name, or "plugin/name", is registered."""
        return bool(self._find(kind, name))

    @property
    def failures(self) -> Failures:
        """The plugins that could not be read or loaded so far."""
        return [plugin.failure for plugin in self._plugins.values() if plugin.failure]

    def distributions(self) -> dict[str, dict[str, str]]:
        """For a manifest: each plugin's distribution, version, and the SHA-256 of its source."""
        return {
            name: {
                "distribution": plugin.origin.distribution,
                "version": plugin.origin.version,
                "sha256": digest(plugin.source),
            }
            for name, plugin in self._plugins.items()
        }

    # --- getting it -------------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Any:
        """The class or object of a name or "plugin/name"; a recipe's path. Its PluginError says what to do."""
        _check_kind(kind)
        found = self._find(kind, name)
        if not found:
            raise PluginError(self.unknown([kind], name))
        for each in found:
            self._load(self._plugins[each.plugin])
        # A plugin that fails hides no other: it takes no name away from one that works.
        working = [each for each in found if not self._plugins[each.plugin].failure]
        if not working:
            raise PluginError(f"{kind} {name!r} cannot be had: {self._plugins[found[0].plugin].failure}")
        if len(working) > 1:
            owners = " and ".join(each.owner for each in working)
            choices = " or ".join(repr(f"{each.plugin}/{each.name}") for each in working)
            raise PluginError(f"{kind} {name!r} is registered by {owners}. Write {choices}, or uninstall one of them.")
        plugin = self._plugins[working[0].plugin]
        key = (kind, working[0].name)
        if key not in plugin.objects:
            plugin.objects[key] = _resolve(plugin, working[0])
        return plugin.objects[key]

    def unknown(self, kinds: Sequence[str], name: str) -> str:
        """What to say of a name that is registered under none of these kinds."""
        everything = self._registrations()
        hint = did_you_mean(name, {each.name for each in everything if each.kind in kinds})
        lines = [f"there is no {' or '.join(kinds)} {name!r}. {hint}"]
        lines += [f"{name!r} is a {kind}." for kind in KINDS if self._find(kind, name)]
        lines += [f"It may come from {each.owner}, which failed to load: {each.last_line}" for each in self.failures]
        return "\n".join(lines)

    def load_all(self) -> None:
        """Import every plugin, so that its observers watch. Failures are collected; that of a plugin which the user
        added is raised."""
        for plugin in self._plugins.values():
            self._load(plugin)
        for plugin in self._plugins.values():
            plugin.raise_if_asked()

    # --- adding to it -----------------------------------------------------------------------------------------

    def add_file(self, path: Path | str) -> None:
        """Take a loose file as a plugin, called by its file name; raises PluginError when it cannot be read."""
        path = Path(path).resolve()
        if path.suffix != ".py" or not path.is_file():
            raise PluginError(f"plugin {path}: there is no such Python file")
        plugin = self._known(path.name, path)
        if plugin is None:
            origin = Origin(path.name, module=path.stem, folder=path.parent)
            plugin = self._take(Plugin(origin, functools.partial(import_file, path), path))
        plugin.asked = True
        plugin.raise_if_asked()

    def add(self, plugin: object, name: str = "") -> None:
        """Take a module, or any object with hooks, as a plugin. Added again, it replaces the former one."""
        home = plugin if isinstance(plugin, ModuleType | type) else type(plugin)
        name = name or home.__name__
        file = getattr(plugin, "__file__", None) if isinstance(plugin, ModuleType) else None
        source = Path(file).resolve() if file else None
        former = self._known(name, source)
        if former is not None and not former.by_hand:
            taken = former
        else:
            if former is not None and former.loaded is not None:
                self._manager.unregister(former.loaded)
            module = home.__name__ if isinstance(home, ModuleType) else home.__module__
            origin = Origin(name, module=module, folder=source.parent if source else Path.cwd())
            taken = self._take(Plugin(origin, lambda: plugin, source, static=False))
        taken.asked = True
        self._load(taken)
        taken.raise_if_asked()

    # --- watching a run ---------------------------------------------------------------------------------------

    @property
    def hook(self) -> pluggy.HookRelay:
        """pluggy's relay to the observers that are loaded; `observe` is the safe way to call them."""
        return self._manager.hook

    def observe(self, hook: str, **arguments: object) -> Answers:
        """Call a hook of every plugin; what they answer, None left out. One that raises is reported once and switched
        off; the run goes on."""
        answers: Answers = []
        observers = [each.plugin for each in getattr(self.hook, hook).get_hookimpls()]
        for observer in observers:
            alone = self._manager.subset_hook_caller(hook, [each for each in observers if each is not observer])
            try:
                answers += alone(**arguments)
            except Exception as error:
                origin = self._plugins[self._manager.get_name(observer) or ""].origin
                self._manager.unregister(observer)
                self._warn(f"{origin} raised in {hook} and no longer watches the run:\n{plain_traceback(error)}")
        return answers

    # --- inside -----------------------------------------------------------------------------------------------

    def _registrations(self) -> Registrations:
        return [each for plugin in self._plugins.values() for each in plugin.registrations.values()]

    def _find(self, kind: str, name: str) -> Registrations:
        owner, _, name = name.rpartition("/")
        found = [each for each in self._registrations() if (each.kind, each.name) == (kind, name)]
        return [each for each in found if not owner or owner in (each.plugin, each.distribution)]

    def _with_conflicts(self, registration: Registration) -> Registration:
        found = self._find(registration.kind, registration.name)
        others = [each.owner for each in found if each != registration and not self._plugins[each.plugin].failure]
        return replace(registration, conflicts=tuple(others))

    def _known(self, name: str, source: Path | None) -> Plugin | None:
        """The plugin of this source, if it is here; raises when another one bears its name."""
        for plugin in self._plugins.values():
            if source is not None and plugin.source == source:
                return plugin
        namesake = self._plugins.get(name)
        if namesake is not None and not namesake.by_hand:
            other = namesake.source or namesake.origin
            raise PluginError(f"plugin {source or name}: another one, {other}, is already called {name!r}")
        return namesake

    def _take(self, plugin: Plugin) -> Plugin:
        """Read what it registers from its source, or else import it."""
        self._plugins[plugin.origin.plugin] = plugin
        if plugin.static and plugin.source and not plugin.failure:
            try:
                registrations = declared(plugin.source, plugin.origin)
            except (SyntaxError, ValueError, OSError) as error:
                plugin.failure = Failure.of(plugin.origin, error, plugin.source)
                return plugin
            if registrations is not None:
                plugin.registrations = {(each.kind, each.name): each for each in registrations}
                return plugin
            plugin.static = False
        self._load(plugin)
        return plugin

    def _load(self, plugin: Plugin) -> None:
        """Import it and call its hook, once."""
        if plugin.loaded is not None or plugin.failure:
            return
        try:
            loaded = plugin.load()
            registrar = self._register(plugin, loaded)
            if plugin.static:
                _compare(plugin, registrar, loaded)
        except (Exception, SystemExit) as error:
            plugin.failure = Failure.of(plugin.origin, error, plugin.source)
            if self._manager.has_plugin(plugin.origin.plugin):
                self._manager.unregister(name=plugin.origin.plugin)
            return
        plugin.loaded, plugin.objects, plugin.registrations = loaded, registrar.objects, registrar.registrations

    def _register(self, plugin: Plugin, loaded: object) -> Registrar:
        hash(loaded)  # pluggy puts plugins into sets: one that cannot be hashed would break the others
        self._manager.register(loaded, plugin.origin.plugin)
        hooks = self._manager.get_hookcallers(loaded)
        if not hooks:
            raise PluginError("it has no function marked with @alignzoo.hookimpl")
        for hook in hooks:
            if not hook.has_spec():
                known = [name for name in vars(hookspecs) if name.startswith("alignzoo_")]
                raise PluginError(f"there is no hook {hook.name!r}. {did_you_mean(hook.name, known)}")
        registrar = Registrar(plugin.origin, loaded)
        others = [each for each in self._manager.get_plugins() if each is not loaded]
        self._manager.subset_hook_caller("alignzoo_register", others)(zoo=registrar)
        return registrar


def _compare(plugin: Plugin, registrar: Registrar, loaded: object) -> None:
    """Keep what the source told; raise if running it registers anything else."""
    static, real = plugin.registrations, registrar.registrations
    differing = sorted(static.keys() ^ real.keys())
    for key in static.keys() & real.keys():
        named = key in registrar.objects and _find_in(loaded, static[key].target) is registrar.objects[key]
        if named or static[key].target == real[key].target:
            real[key] = static[key] if static[key].summary else replace(static[key], summary=real[key].summary)
        else:
            differing.append(key)
    for kind, name in differing:
        told, found = (source.get((kind, name)) for source in (static, real))
        raise PluginError(
            f"{kind} {name!r}: the source of alignzoo_register says {told and told.target}, "
            f"but running it registers {found and found.target}"
        )


def _resolve(plugin: Plugin, registration: Registration) -> Any:
    """Import a target and check it."""
    kind, name, target = registration.kind, registration.name, registration.target
    if kind == "recipe":
        return Path(target)
    module, _, path = target.partition(":")
    try:
        own = module == plugin.origin.module and isinstance(plugin.loaded, ModuleType)
        home = plugin.loaded if own else importlib.import_module(module)
    except (Exception, SystemExit) as error:
        failure = Failure.of(plugin.origin, error, plugin.source)
        raise PluginError(f"{kind} {name!r} cannot be had, for {target} cannot be imported: {failure}") from error
    try:
        found = functools.reduce(getattr, path.split("."), home)
    except AttributeError as error:
        hint = did_you_mean(path, [each for each, value in vars(home).items() if isinstance(value, type)])
        raise PluginError(f"{registration.owner}: {kind} {name!r} is {target}: there is no {path!r}. {hint}") from error
    try:
        check_part(kind, name, found)
    except PluginError as error:
        raise PluginError(f"{registration.owner}: {error}") from error
    return found


def _find_in(module: object, target: str) -> object:
    return functools.reduce(lambda found, name: getattr(found, name, None), target.partition(":")[2].split("."), module)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise PluginError(f"there is no kind {kind!r}. {did_you_mean(kind, KINDS)}")


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
