"""Which algorithm is better, at what cost, and how sure are we: `alignzoo.compare` and `alignzoo compare`.

The public names, each fetched when it is first asked for: a cell's process needs neither scipy nor the analysis.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignzoo.compare.plan import Budget, Entry, Plan
    from alignzoo.compare.results import Results, read_results
    from alignzoo.compare.running import compare, execute

__all__ = ["Budget", "Entry", "Plan", "Results", "compare", "execute", "read_results"]

_HOMES = {"plan": "Budget Entry Plan", "results": "Results read_results", "running": "compare execute"}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


class _Callable(ModuleType):
    """`alignzoo.compare` is this package and also the function: importing the one must not hide the other."""

    def __call__(self, *algorithms: str, **settings: Any) -> Results:
        from alignzoo.compare.running import compare

        return compare(*algorithms, **settings)

    def __getattr__(self, name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{self.__name__}.{_HOME[name]}"), name)


sys.modules[__name__].__class__ = _Callable
