"""A zoo of algorithms that align language models: every algorithm a plugin of a page.

The public names, each fetched when it is first asked for: `import alignzoo` imports neither torch nor pydantic, so
that listing plugins, or importing one, costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from alignzoo import functional
    from alignzoo.compare import compare
    from alignzoo.decoding import Decoding
    from alignzoo.engines import Engine
    from alignzoo.errors import (
        AlignzooError,
        DataError,
        ModelError,
        PluginError,
        RecipeError,
        RewardError,
        RunError,
    )
    from alignzoo.interfaces import Context, Judge, Optimizer, Policy, PolicySpec, RewardSource, Sampler, Task, Writer
    from alignzoo.lifecycle import live_of, opened
    from alignzoo.runs.api import run
    from alignzoo.types import (
        Alert,
        Batch,
        Completion,
        Forward,
        Group,
        Message,
        Prompt,
        Question,
        Score,
        StepReport,
        Terms,
        Text,
        Verdict,
    )

    __version__: str

__all__ = [
    "API_VERSION",
    "Alert",
    "AlignzooError",
    "Batch",
    "Completion",
    "Context",
    "DataError",
    "Decoding",
    "Engine",
    "Forward",
    "Group",
    "Judge",
    "Message",
    "ModelError",
    "Optimizer",
    "PluginError",
    "Policy",
    "PolicySpec",
    "Prompt",
    "Question",
    "RecipeError",
    "RewardError",
    "RewardSource",
    "RunError",
    "Sampler",
    "Score",
    "StepReport",
    "Task",
    "Terms",
    "Text",
    "Verdict",
    "Writer",
    "__version__",
    "compare",
    "functional",
    "hookimpl",
    "live_of",
    "opened",
    "run",
]

API_VERSION = "0.2"
"""The version of what plugins are written against: these names, the hooks, the contracts and the conformance kit.

A plugin module may say which it was written for, `api = ">=0.2,<0.3"`; another one is refused with the cure. The first
number grows when a plugin may have to change, the second when there is more to use.
"""

hookimpl = pluggy.HookimplMarker("alignzoo")
"""Marks a plugin's functions as hooks: `@alignzoo.hookimpl` above `def alignzoo_register(zoo)`."""

_HOMES = {
    "alignzoo.runs.api": "run",
    "alignzoo.compare": "compare",
    "alignzoo.decoding": "Decoding",
    "alignzoo.engines": "Engine",
    "alignzoo.errors": "AlignzooError DataError ModelError PluginError RecipeError RewardError RunError",
    "alignzoo.interfaces": "Context Judge Optimizer Policy PolicySpec RewardSource Sampler Task Writer",
    "alignzoo.lifecycle": "live_of opened",
    "alignzoo.types": "Alert Batch Completion Forward Group Message Prompt Question Score StepReport Terms Text"
    " Verdict",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker reads the imports above, and so flags a name that does not exist

    def __getattr__(name: str) -> object:
        if name == "functional":
            return importlib.import_module("alignzoo.functional")
        if name == "__version__":
            value = _version()
        elif name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module 'alignzoo' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("alignzoo")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0.1.0"
