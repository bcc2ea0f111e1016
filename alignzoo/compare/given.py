"""Objects that Python gives to `compare` in the place of names: its cells run in other processes, which see files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from alignzoo.errors import PluginError, RecipeError

ELSEWHERE = "each cell of a comparison runs in a process of its own, which cannot see what only this one has"
WRITTEN = "Write it to a file, in a notebook by %%writefile mine.py,"


def plugin_file(plugin: Any) -> str:
    """The file of a plugin that was given as a path or as a module."""
    if isinstance(plugin, ModuleType) and getattr(plugin, "__file__", None):
        plugin = plugin.__file__
    if not isinstance(plugin, str | Path):
        raise PluginError(f"plugins: found {_named(plugin)}, but {ELSEWHERE}. {WRITTEN} and give plugins=['mine.py']")
    return str(Path(plugin).resolve())


def reward_override(reward: Any) -> str:
    """The override of every recipe that sets this reward: a name, or a function of a file."""
    if isinstance(reward, str):
        return f"reward={json.dumps(reward)}"
    name = reward.__name__ if inspect.isfunction(reward) else ""
    home = inspect.getmodule(reward) if name else None
    file = getattr(home, "__file__", None)
    if home is None or not file or home.__name__ == "__main__" or getattr(home, name, None) is not reward:
        raise RecipeError(
            f"reward: found {_named(reward)}, but {ELSEWHERE}. {WRITTEN} and give the function that is imported from "
            "it; a reward with settings is registered by a plugin, and given by its name"
        )
    function = json.dumps(f"{Path(file).resolve()}:{name}")
    return f'reward={{ name = "python", function = {function} }}'


def check_names(**given: str | Sequence[str]) -> None:
    """Raise where an object stands in the place of a name."""
    for key, names in given.items():
        for name in [names] if isinstance(names, str) or not isinstance(names, Sequence) else names:
            if not isinstance(name, str):
                raise RecipeError(
                    f"{key}: found {_named(name)}, where a name is expected: {ELSEWHERE}. {WRITTEN} as a plugin that "
                    "registers it, and give plugins=['mine.py'] and its name"
                )


def _named(given: Any) -> str:
    return f"{getattr(given, '__qualname__', type(given).__qualname__)!r}, an object of Python's"
