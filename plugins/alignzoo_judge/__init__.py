"""AI judges: a model behind an endpoint, and the reward that asks any judge about the answers of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignzoo

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.judge("openai", "alignzoo_judge.endpoint:OpenAI")
    zoo.reward("judge", "alignzoo_judge.reward:JudgeReward")
