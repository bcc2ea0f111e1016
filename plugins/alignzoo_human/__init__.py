"""People in the loop: answers are compared, ranked and graded in a browser, and what people say trains models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignzoo

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.reward("human", "alignzoo_human.reward:HumanReward")
    zoo.judge("human", "alignzoo_human.judge:HumanJudge")
