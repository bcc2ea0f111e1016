"""Reward models: a head learns to score completions."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer(
        "reward-model",
        "alignzoo_reward_models.bradley_terry:RewardModel",
        family="reward models",
        summary="Bradley-Terry on ranked completions",
    )
