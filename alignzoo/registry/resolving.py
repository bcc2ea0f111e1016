"""From what a plugin has registered to the class or object itself."""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from alignzoo.errors import PluginError, did_you_mean
from alignzoo.registry.discovery import Plugin
from alignzoo.registry.failure import Failure
from alignzoo.registry.interrupts import watched
from alignzoo.registry.registrar import Registrar, Registration, check_part
from alignzoo.surroundings import unchanged


def compare(plugin: Plugin, registrar: Registrar, loaded: object) -> None:
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


def resolve(plugin: Plugin, registration: Registration) -> Any:
    """Import a target and check it."""
    kind, name, target = registration.kind, registration.name, registration.target
    if kind == "recipe":
        return Path(target)
    module, _, path = target.partition(":")
    with watched() as is_ctrl_c:
        try:
            own = module == plugin.origin.module and isinstance(plugin.loaded, ModuleType)
            with unchanged(plugin.source):
                home = plugin.loaded if own else importlib.import_module(module)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
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
