"""Process supervision: step labels by rollouts, models that score steps, and rewards from such models."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer(
        "process-reward-model",
        "alignzoo_process.model:ProcessRewardModel",
        family="reward models",
        summary="How probably each step is right, read at its end",
        aliases=("prm",),
    )
    zoo.sampler("steps", "alignzoo_process.steps:Steps")
    zoo.sampler("math-shepherd", "alignzoo_process.math_shepherd:MathShepherd")
    zoo.reward("process", "alignzoo_process.reward:ProcessReward")
    zoo.reward("implicit-prm", "alignzoo_process.implicit:ImplicitReward")
    zoo.optimizer(
        "generative-reward-model",
        "alignzoo_process.generative:GenerativeRewardModel",
        family="reward models",
        summary="A verifier whose next token says yes or no",
        aliases=("genrm",),
    )
    zoo.sampler("verdicts", "alignzoo_process.generative:Verdicts")
