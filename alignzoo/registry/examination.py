"""What a plugin is, and what became of it when it was loaded: a line of `alignzoo doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignzoo.registry.discovery import Plugin


@dataclass(frozen=True)
class Examination:
    """A plugin, loaded or not."""

    plugin: str
    distribution: str
    version: str
    api: str
    """The plugin API that it asks for; empty where it does not say."""
    source: str
    """Its file."""
    owner: str
    brings: tuple[str, ...]
    """What it registers: "optimizer ppo"."""
    watches: tuple[str, ...]
    """The hooks by which it watches runs."""
    seconds: float
    """What loading it took, with what it imports first."""
    cause: str
    """Why it could not be loaded; empty when it could."""
    cure: str
    traceback: str

    @classmethod
    def of(cls, plugin: Plugin, hooks: Sequence[str], seconds: float) -> Examination:
        """What there is to say of a plugin that was asked to load."""
        failure = plugin.failure
        return cls(
            plugin=plugin.origin.plugin,
            distribution=plugin.origin.distribution,
            version=plugin.origin.version,
            api=plugin.api,
            source=str(plugin.source or ""),
            owner=str(plugin.origin),
            brings=tuple(f"{kind} {name}" for kind, name in plugin.registrations),
            watches=tuple(name for name in hooks if name != "alignzoo_register"),
            seconds=round(seconds, 3),
            cause=failure.last_line if failure else "",
            cure=failure.cure if failure else "",
            traceback=failure.traceback if failure else "",
        )
