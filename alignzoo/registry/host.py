"""Every plugin there is: listed without importing it, loaded when asked for, and loud when it cannot be.

A plugin is an entry point of the group `alignzoo`, a loose file, or an object of a notebook; all three end as the
same `Registration` and give the same object. Importing this imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, cast

import pluggy

from alignzoo import hookspecs
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.files import check_kind
from alignzoo.registry.compat import check_api
from alignzoo.registry.discovery import Plugin, digest, entry_points, forget, import_file, installed, own_recipes
from alignzoo.registry.examination import Examination
from alignzoo.registry.failure import Failure, plain_traceback
from alignzoo.registry.interrupts import watched
from alignzoo.registry.registrar import KINDS, Origin, Registrar, Registration
from alignzoo.registry.resolving import compare, resolve
from alignzoo.registry.source import declared
from alignzoo.surroundings import Changed, staying, unchanged

__all__ = ["KINDS", "Failure", "Registrar", "Registration", "Registry"]

RECIPES = Path(__file__).parents[1] / "recipes"
"""The package's own recipes; those that begin with "_" are not listed."""

MANY = 60
"""Names above which a message does not list them all."""

Failures: TypeAlias = list[Failure]
Registrations: TypeAlias = list[Registration]
Examinations: TypeAlias = list[Examination]
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
        self._told: set[str] = set()
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
        """The registered names of a kind, without aliases."""
        return sorted({each.name for each in self.list(kind)})

    def has(self, kind: str, name: str) -> bool:
        """Whether a name or alias, or "plugin/name", is registered."""
        return bool(self._find(kind, name))

    def canonical(self, kind: str, name: str) -> str:
        """The name that an alias stands for, with the plugin where one is given; any other name as it is."""
        owner, slash, _ = name.rpartition("/")
        return owner + slash + self.registration(kind, name).name

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
        found = self.registration(kind, name)
        plugin = self._plugins[found.plugin]
        key = (kind, found.name)
        if key not in plugin.objects:
            plugin.objects[key] = resolve(plugin, found)
        return plugin.objects[key]

    def registration(self, kind: str, name: str) -> Registration:
        """Which registration a name or "plugin/name" means. Its plugin is loaded; the PluginError says what to do."""
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
        bare = name.rpartition("/")[2]
        entitled = [each for each in working if not self._shadowed(each, bare)] or working
        if len(entitled) > 1:
            owners = " and ".join(each.owner for each in entitled)
            choices = " or ".join(repr(f"{each.plugin}/{each.name}") for each in entitled)
            raise PluginError(f"{kind} {name!r} is registered by {owners}. Write {choices}, or uninstall one of them.")
        for each in working:
            if each not in entitled:
                self._tell(
                    f"{kind} {name!r} is {entitled[0].owner}'s; that of {each.owner} is '{each.plugin}/{each.name}'"
                )
        return entitled[0]

    def unknown(self, kinds: Sequence[str], name: str) -> str:
        """What to say of a name that is registered under none of these kinds."""
        everything = self._registrations()
        known = {called for each in everything if each.kind in kinds for called in each.names}
        hint = did_you_mean(name, known)
        if len(known) > MANY:
            near = hint.rpartition(" Known: ")[0] or hint.partition("Known: ")[0]
            hint = f"{near} `alignzoo list` shows all {len(known)}; --plugin FILE adds a file of your own.".lstrip()
        lines = [f"there is no {' or '.join(kinds)} {name!r}. {hint}"]
        lines += [
            f"{name!r} is {'an' if kind[0] in 'aeiou' else 'a'} {kind}." for kind in KINDS if self._find(kind, name)
        ]
        lines += [f"It may come from {each.owner}, which failed to load: {each.last_line}" for each in self.failures]
        return "\n".join(lines)

    def load_all(self) -> None:
        """Import every plugin, so that its observers watch. Failures are collected; that of a plugin which the user
        added is raised."""
        for plugin in self._plugins.values():
            self._load(plugin)
        for plugin in self._plugins.values():
            plugin.raise_if_asked()
        for failure in self.failures:
            self._tell(f"{failure.owner} failed to load and is left out: {failure.last_line}\n{failure.cure}")

    def examine(self) -> Examinations:
        """Every plugin, loaded, and what became of it."""
        return [self._examined(plugin) for plugin in self._plugins.values()]

    # --- adding to it -----------------------------------------------------------------------------------------

    def add_file(self, path: Path | str) -> None:
        """Take a loose file as a plugin, called by its file name; raises PluginError when it cannot be read."""
        check_kind(Path(path), PluginError)
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
            with watched() as is_ctrl_c:
                try:
                    with staying("it"):
                        answers += alone(**arguments)
                except BaseException as error:
                    if is_ctrl_c(error):
                        raise
                    self._switch_off(observer, hook, error)
        return answers

    def trackers(self) -> dict[str, str]:
        """What `alignzoo_trackers` of all plugins answers, safely: tracker names, each with its cure or ""."""
        served: dict[str, str] = {}
        for each in self.hook.alignzoo_trackers.get_hookimpls():
            with watched() as is_ctrl_c:
                try:
                    served |= cast("dict[str, str]", each.function())
                except BaseException as error:
                    if is_ctrl_c(error):
                        raise
                    self._switch_off(each.plugin, "alignzoo_trackers", error)
        return served

    def _switch_off(self, observer: object, hook: str, error: BaseException) -> None:
        origin = self._plugins[self._manager.get_name(observer) or ""].origin
        self._manager.unregister(observer)
        self._warn(f"{origin} raised in {hook} and no longer watches the run:\n{plain_traceback(error)}")

    # --- inside -----------------------------------------------------------------------------------------------

    def _registrations(self) -> Registrations:
        return [each for plugin in self._plugins.values() for each in plugin.registrations.values()]

    def _find(self, kind: str, name: str) -> Registrations:
        """What has this name or alias; where nothing has, what has it in other letters' case or with other hyphens."""
        owner, _, name = name.rpartition("/")
        there = [each for each in self._registrations() if each.kind == kind]
        found = [each for each in there if name in each.names] or [
            each for each in there if _plainly(name) in map(_plainly, each.names)
        ]
        return [each for each in found if not owner or owner in (each.plugin, each.distribution)]

    def _examined(self, plugin: Plugin) -> Examination:
        start = time.perf_counter()
        self._load(plugin)
        seconds = time.perf_counter() - start
        hooks = (self._manager.get_hookcallers(plugin.loaded) if plugin.loaded else None) or ()
        return Examination.of(plugin, [hook.name for hook in hooks], seconds)

    def _shadowed(self, registration: Registration, name: str) -> bool:
        """Whether alignzoo itself has this name of it: it keeps it, unless the user added the other plugin by hand."""
        plugin = self._plugins[registration.plugin]
        if plugin.asked or plugin.first_party:
            return False
        found = self._find(registration.kind, name)
        return any(self._plugins[each.plugin].first_party for each in found)

    def _with_conflicts(self, registration: Registration) -> Registration:
        rivals: list[str] = []
        own = self._plugins[registration.plugin].first_party
        for name in registration.names:
            for each in self._find(registration.kind, name):
                working = each != registration and not self._plugins[each.plugin].failure
                if working and not (own and self._shadowed(each, name)):
                    rivals.append(each.owner)
        return replace(registration, conflicts=tuple(dict.fromkeys(rivals)))

    def _tell(self, message: str) -> None:
        """Warn, once."""
        if message not in self._told:
            self._told.add(message)
            self._warn(message)

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
                plugin.api, registrations = declared(plugin.source, plugin.origin)
                plugin.registrations = {(each.kind, each.name): each for each in registrations or ()}
                check_api(plugin.api, plugin.origin.distribution)
            except (SyntaxError, ValueError, OSError, PluginError) as error:
                plugin.failure = Failure.of(plugin.origin, error, plugin.source)
                return plugin
            if registrations is not None:
                return plugin
            plugin.static = False
        self._load(plugin)
        return plugin

    def _load(self, plugin: Plugin) -> None:
        """Import it and call its hook, once."""
        if plugin.loaded is not None or plugin.failure:
            return
        known = set(sys.modules)
        with watched() as is_ctrl_c:
            try:
                with unchanged(plugin.source):
                    with contextlib.redirect_stdout(sys.stderr):  # so that nobody spoils what a command writes as JSON
                        loaded = plugin.load()
                    said = getattr(loaded, "api", "")
                    plugin.api = plugin.api or ("" if isinstance(said, ModuleType) else str(said))
                    check_api(plugin.api, plugin.origin.distribution)
                    registrar = self._register(plugin, loaded)
                if plugin.static:
                    compare(plugin, registrar, loaded)
            except BaseException as error:  # a PanicException of pyo3, a Skipped of pytest, a sys.exit
                if is_ctrl_c(error):
                    raise
                plugin.failure = Failure.of(plugin.origin, error, plugin.source)
                if self._manager.has_plugin(plugin.origin.plugin):
                    self._manager.unregister(name=plugin.origin.plugin)
                if isinstance(error, Changed):
                    forget(plugin, known)
                return
        plugin.loaded, plugin.objects, plugin.registrations = loaded, registrar.objects, registrar.registrations

    def _register(self, plugin: Plugin, loaded: object) -> Registrar:
        if self._manager.is_registered(loaded):
            raise PluginError(f"its module is the plugin {self._manager.get_name(loaded)!r} already: it has two names")
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


def _plainly(name: str) -> str:
    """A name without its case, its hyphens and whatever stands for one; a plus sign is the word."""
    return "".join(c for c in name.casefold() if c not in "-_. ").replace("+", "plus")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise PluginError(f"there is no kind {kind!r}. {did_you_mean(kind, KINDS)}")


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
