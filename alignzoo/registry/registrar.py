"""What a plugin gets as `zoo`, and what it leaves there: names for classes, objects and recipe files.

Importing this imports no torch; nothing here imports a plugin.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from alignzoo import columns
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.traits import check_names, check_optimizer, check_prepare_reads, check_trains

MEMBERS = {
    "optimizer": ("needs", "epochs", "prepare", "loss"),
    "policy": ("load",),
    "sampler": ("online", "sample"),
    "reward": ("score",),
    "judge": ("judge",),
    "task": ("policy", "base", "reward", "data", "gold"),
    "engine": ("exact", "separate", "open"),
}
"""What a part of each kind must have; `alignzoo.interfaces` and `alignzoo.engines` say what it means."""

KINDS = (*MEMBERS, "recipe")
"""Everything a plugin can register."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""A registered name: it must fit into `plugin/name` and into `key=value`."""

MERGE = "merge"
"""What stands for a stage that merges models, where a recipe names an optimizer."""

NOTHING = "none"
"""The optimizer of a stage that trains nothing, which no plugin brings: optimizer = "none"."""

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""A registered string: "module:Class"."""


@dataclass(frozen=True)
class About:
    """What a plugin says of a name, for lists."""

    summary: str = ""
    """One line; empty: the first line of the docstring, or a recipe's description."""
    family: str = ""
    """The family of algorithms that it is listed with."""
    aliases: tuple[str, ...] = ()
    """Further names, which work wherever the name does."""
    variant_of: str = ""
    """The optimizer that it varies, and is listed beneath."""


KEYWORDS = {"optimizer": ("summary", "family", "aliases", "variant_of")}
"""What a plugin may say of a name of each kind; of a kind that is not here, a summary alone."""


@dataclass(frozen=True)
class Origin:
    """A plugin, and where it comes from."""

    plugin: str
    """The entry point's name, or the file's."""
    distribution: str = ""
    """The installed distribution; empty for a loose file or a notebook."""
    version: str = ""
    module: str = ""
    """The module that its targets name."""
    folder: Path = Path()
    """Where its recipe files are."""

    def __str__(self) -> str:
        return _owner(self.plugin, self.distribution, self.version)

    def registration(self, kind: str, name: str, target: str, about: About) -> Registration:
        """What this plugin has registered."""
        listed = (about.summary, (), about.family, about.aliases, about.variant_of)
        return Registration(kind, name, target, self.plugin, self.distribution, self.version, *listed)


@dataclass(frozen=True)
class Registration:
    """A name that a plugin has given to a class, an object or a recipe file."""

    kind: str
    """One of `KINDS`."""
    name: str
    target: str
    """"module:Class"; for a recipe, the path of its TOML file."""
    plugin: str
    """The entry point's name, or the file's."""
    distribution: str = ""
    """The installed distribution; empty for a loose file or a notebook."""
    version: str = ""
    summary: str = field(default="", compare=False)
    """The first line of the docstring, where it can be read without importing anything."""
    conflicts: tuple[str, ...] = field(default=(), compare=False)
    """The other owners of the same name or alias; with any, only `plugin/name` gets it."""
    family: str = ""
    """The family of algorithms that it is listed with."""
    aliases: tuple[str, ...] = ()
    """Further names, which work wherever the name does."""
    variant_of: str = ""
    """The optimizer that it varies, and is listed beneath."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def owner(self) -> str:
        """Who registered it."""
        return _owner(self.plugin, self.distribution, self.version)


class Registrar:
    """What a plugin gets as `zoo`: one method for each kind of thing that it can bring.

    A target is "module:Class", imported when first asked for, or the class itself. A class is a frozen dataclass
    whose fields are its settings; a ready object has none.
    """

    def __init__(self, origin: Origin, plugin: object) -> None:
        self._origin = origin
        self._plugin = plugin
        self.registrations: dict[tuple[str, str], Registration] = {}
        """By kind and name."""
        self.objects: dict[tuple[str, str], Any] = {}
        """What was registered as itself, not as a string."""

    def optimizer(
        self,
        name: str,
        target: object,
        *,
        summary: str = "",
        family: str = "",
        aliases: Sequence[str] = (),
        variant_of: str = "",
    ) -> None:
        """An `Optimizer`: an alignment method, the family that it is listed with, further names that it goes by, and
        the optimizer that it is a variant of."""
        if isinstance(aliases, str):
            raise PluginError(f"optimizer {name!r}: aliases is the string {aliases!r}; write aliases=({aliases!r},)")
        for key, value in (("family", family), ("variant_of", variant_of)):
            if not isinstance(value, str):
                raise PluginError(f"optimizer {name!r}: {key} is {value!r}, expected a string")
        self._part("optimizer", name, target, About(summary, family, tuple(aliases), variant_of))

    def policy(self, name: str, target: object, *, summary: str = "") -> None:
        """A `PolicySpec`: the settings that load a `Policy`."""
        self._part("policy", name, target, About(summary))

    def sampler(self, name: str, target: object, *, summary: str = "") -> None:
        """A `Sampler`."""
        self._part("sampler", name, target, About(summary))

    def reward(self, name: str, target: object, *, summary: str = "") -> None:
        """A `RewardSource`."""
        self._part("reward", name, target, About(summary))

    def judge(self, name: str, target: object, *, summary: str = "") -> None:
        """A `Judge`, for rewards that ask one."""
        self._part("judge", name, target, About(summary))

    def task(self, name: str, target: object, *, summary: str = "") -> None:
        """A `Task`."""
        self._part("task", name, target, About(summary))

    def engine(self, name: str, target: object, *, summary: str = "") -> None:
        """An `Engine`: what generates a policy's completions."""
        self._part("engine", name, target, About(summary))

    def recipe(self, name: str, path: str | Path, *, summary: str = "") -> None:
        """A TOML file: absolute, or relative to the plugin's folder."""
        if not isinstance(path, str | Path):
            raise PluginError(f"recipe {name!r} is {path!r}: a recipe is the path of a TOML file")
        file = self._origin.folder / path
        if not file.is_file():
            raise PluginError(f"recipe {name!r} is {str(path)!r}, but there is no file {file}")
        self._add("recipe", name, str(file), about_recipe(file, summary))

    def __getattr__(self, kind: str) -> Callable[..., None]:
        if kind.startswith("_"):
            raise AttributeError(kind)
        raise PluginError(f"zoo.{kind}: there is no such kind. {did_you_mean(kind, KINDS)}")

    def _part(self, kind: str, name: str, target: object, about: About) -> None:
        if isinstance(target, str):
            if not TARGET.fullmatch(target):
                raise PluginError(f"{kind} {name!r} is {target!r}: a string must be of the form 'module:Class'")
            self._add(kind, name, target, about)
        else:
            check_part(kind, name, target)
            self._add(kind, name, self._target(target), replace(about, summary=about.summary or first_line(target)))
            self.objects[kind, name] = target

    def _add(self, kind: str, name: str, target: str, about: About) -> None:
        if kind == "optimizer" and {NOTHING, MERGE} & {name, *about.aliases}:
            raise PluginError(f"optimizer {name!r}: {NOTHING!r} and {MERGE!r} are stages that train nothing: rename it")
        taken = [each for (its, _), one in self.registrations.items() if its == kind for each in one.names]
        for each in (name, *about.aliases):
            what = f"{kind} {name!r}" if each == name else f"{kind} {name!r}, alias {each!r}"
            if not isinstance(each, str) or not NAME.fullmatch(each):
                raise PluginError(f"{what}: a name is a string of letters, digits, '-' and '_'")
            if each in taken:
                raise PluginError(f"{what} is registered twice by this plugin")
            taken.append(each)
        self.registrations[kind, name] = self._origin.registration(kind, name, target, about)

    def _target(self, part: object) -> str:
        """ "module:Name" of an object: the plugin's own name for it, or else where it was defined."""
        own = vars(self._plugin) if isinstance(self._plugin, ModuleType) else {}
        for name in (getattr(part, "__name__", ""), *own):
            if own.get(name) is part:
                return f"{self._origin.module}:{name}"
        cls = part if isinstance(part, type) else type(part)
        return f"{cls.__module__}:{cls.__qualname__}"


def check_part(kind: str, name: str, part: Any) -> None:
    """Raise unless this class or object can be a part of this kind."""
    if isinstance(part, type) and not is_dataclass(part):
        raise PluginError(f"{kind} {name!r}: {part.__name__} is not a dataclass; its fields are its settings")
    settings = {f.name for f in fields(part)} if is_dataclass(part) else set()
    missing = [member for member in MEMBERS[kind] if member not in settings.union(dir(part))]
    if missing:
        what = getattr(part, "__name__", type(part).__name__)
        raise PluginError(f"{kind} {name!r}: {what} has no {', '.join(missing)}; see alignzoo.interfaces")
    if kind == "optimizer" and not is_dataclass(part):
        raise PluginError(f"{kind} {name!r}: {type(part).__name__} is not a dataclass; its fields are its settings")
    reserved = {"name", "weight"} if kind == "reward" else {"name"}
    for taken in sorted(settings & reserved):
        raise PluginError(f"{kind} {name!r}: a field called {taken!r} would be hidden by the recipe's own key")
    check_names(kind, name, part, MEMBERS[kind])
    if kind == "optimizer":
        _check_needs(name, part, settings)


def needs_of(optimizer: Any) -> Any:
    """The columns that an optimizer needs; of a class whose settings decide that, as its defaults have it."""
    decided = isinstance(optimizer, type) and isinstance(inspect.getattr_static(optimizer, "needs", None), property)
    return getattr(optimizer() if decided else optimizer, "needs", None)


def first_line(part: object) -> str:
    """The first line of a class's docstring; empty for the signature that a dataclass without one is given."""
    cls = part if isinstance(part, type) else type(part)
    line = (cls.__doc__ or "").strip().partition("\n")[0].strip()
    return "" if line.startswith(f"{cls.__name__}(") else line


def about_recipe(recipe: Path, summary: str = "") -> About:
    """What a recipe says of itself; nothing for a file that cannot be read, which is told when it is asked for."""
    try:
        found = tomllib.loads(recipe.read_text("utf-8"))
    except (OSError, ValueError):
        return About(summary)
    return About(summary or str(found.get("description", "")), variant_of=str(found.get("variant_of", "")))


def _check_needs(name: str, optimizer: Any, settings: set[str]) -> None:
    try:
        needs = needs_of(optimizer)
    except TypeError as error:
        reason = "needs is a property, so every field must have a default"
        raise PluginError(f"optimizer {name!r}: {reason}: {error}") from None
    if not isinstance(needs, set | frozenset):
        raise PluginError(f"optimizer {name!r}: needs is {needs!r}, expected frozenset({{...}}) of column names")
    roles = {columns.POLICY, columns.OLD, columns.REFERENCE, *settings}
    for each in sorted(needs):
        try:
            column = columns.column(each)
        except ValueError as error:
            raise PluginError(f"optimizer {name!r} needs {each!r}: {error}") from None
        if column.role not in roles:
            raise PluginError(
                f"optimizer {name!r} needs {each!r}: nobody has the role {column.role!r}. Give the optimizer a field "
                f"{column.role}: PolicySpec. {did_you_mean(column.role, roles - {columns.POLICY})}"
            )
    check_optimizer(name, optimizer)
    check_prepare_reads(name, optimizer, frozenset(needs))
    check_trains(name, optimizer, frozenset(needs))


def _owner(plugin: str, distribution: str, version: str) -> str:
    return f"plugin {plugin!r} ({distribution} {version})" if distribution else f"plugin {plugin!r}"
