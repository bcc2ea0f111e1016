"""The embedded world: three small tasks, and a language model of 0.4 million parameters that talks there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignzoo

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.task("shop", "alignzoo_tiny.tasks:Shop")
    zoo.task("sort", "alignzoo_tiny.tasks:Sort")
    zoo.task("safe", "alignzoo_tiny.tasks:Safe")
    zoo.reward("rules", "alignzoo_tiny.rewards:Rules")
    zoo.judge("rules", "alignzoo_tiny.judge:RulesJudge")
