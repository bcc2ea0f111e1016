"""Which algorithm is better, at what cost, and how sure are we: `alignzoo.compare` and `alignzoo compare`."""

import sys
from types import ModuleType
from typing import Any

from alignzoo.compare.plan import Budget, Entry, Plan
from alignzoo.compare.results import Results, read_results
from alignzoo.compare.running import compare, execute


class _Callable(ModuleType):
    """`alignzoo.compare` is this package and also the function: importing the one must not hide the other."""

    def __call__(self, *algorithms: str, **settings: Any) -> Results:
        return compare(*algorithms, **settings)


sys.modules[__name__].__class__ = _Callable

__all__ = ["Budget", "Entry", "Plan", "Results", "compare", "execute", "read_results"]
