"""Constitutional AI: principles as data, a sampler that criticises and revises, a reward that asks per principle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignzoo

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.sampler("revise", "alignzoo_constitution.revise:Revise")
    zoo.reward("constitution", "alignzoo_constitution.reward:Constitution")
