"""Which algorithm is better, at what cost, and how sure are we: `alignzoo.compare` and `alignzoo compare`."""

from alignzoo.compare.plan import Budget, Entry, Plan
from alignzoo.compare.results import Results, read_results
from alignzoo.compare.running import compare, execute

__all__ = ["Budget", "Entry", "Plan", "Results", "compare", "execute", "read_results"]
