"""It raises at import."""

from dataclasses import dataclass

import alignzoo


@dataclass(frozen=True)
class Raised:
    """Never to be had."""

    def score(self, groups, policy):
        return []


raise RuntimeError("no licence file in /etc/raises.key")


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("raised", Raised)
