"""Constraints and several objectives: what must hold, whom it must suit, and how much of each."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer(
        "lagrangian-grpo",
        "alignzoo_constraints.lagrangian_grpo:LagrangianGRPO",
        family="constraints",
        summary="GRPO under limits on costs, with learnt multipliers",
        aliases=("grpo-lag",),
    )
    zoo.optimizer(
        "lagrangian-ppo",
        "alignzoo_constraints.lagrangian_ppo:LagrangianPPO",
        family="constraints",
        summary="PPO under limits on costs, with learnt multipliers",
        aliases=("ppo-lag", "safe-rlhf"),
    )
    zoo.optimizer(
        "repo",
        "alignzoo_constraints.repo:RePO",
        family="constraints",
        summary="PPO under limits that hold for each answer by itself",
        aliases=("rectified-po",),
        variant_of="lagrangian-ppo",
    )
    zoo.optimizer(
        "max-min",
        "alignzoo_constraints.max_min:MaxMin",
        family="constraints",
        summary="The worst off of several rewards is raised",
        aliases=("maxmin-rlhf",),
    )
    zoo.optimizer(
        "modpo",
        "alignzoo_constraints.modpo:MODPO",
        family="constraints",
        summary="DPO with a margin that other rewards ask for",
    )
    zoo.optimizer(
        "ensemble-grpo",
        "alignzoo_constraints.ensemble_grpo:EnsembleGRPO",
        family="constraints",
        summary="GRPO on several reward models, less where they disagree",
        aliases=("uwo", "wco"),
    )
