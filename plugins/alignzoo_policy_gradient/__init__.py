"""Policy gradients: each optimizer in a file of its own; here they are only registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignzoo

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    zoo.optimizer(
        "ppo",
        "alignzoo_policy_gradient.ppo:PPO",
        family="policy gradient",
        summary="Proximal policy optimization with a critic, as in RLHF",
    )
    zoo.optimizer(
        "grpo",
        "alignzoo_policy_gradient.grpo:GRPO",
        family="policy gradient",
        summary="Group relative policy optimization: groups, no critic",
    )
    zoo.optimizer(
        "rloo",
        "alignzoo_policy_gradient.rloo:RLOO",
        family="policy gradient",
        summary="REINFORCE leave-one-out: the others are the baseline",
    )
    zoo.optimizer(
        "reinforce",
        "alignzoo_policy_gradient.reinforce:REINFORCE",
        family="policy gradient",
        summary="REINFORCE with a moving baseline: no critic, no group",
    )
    zoo.optimizer(
        "gmpo",
        "alignzoo_policy_gradient.gmpo:GMPO",
        family="policy gradient",
        summary="GRPO with ratios multiplied over a sequence, not averaged",
    )
