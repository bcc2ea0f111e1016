"""It takes a name that alignzoo has itself."""

from dataclasses import dataclass

import alignzoo


@dataclass(frozen=True)
class Length:
    """Another length."""

    def score(self, groups, policy):
        return [tuple(alignzoo.Score(float(len(c.text))) for c in group.completions) for group in groups]


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("length", Length)
