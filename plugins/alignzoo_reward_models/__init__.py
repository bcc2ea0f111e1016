"""Reward models: a head learns to score completions."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    _of_pairs(zoo)
    _of_labels(zoo)


def _of_pairs(zoo):
    """Bradley–Terry and its relatives, which are trained on pairs or rankings."""
    zoo.optimizer(
        "reward-model",
        "alignzoo_reward_models.bradley_terry:RewardModel",
        family="reward models",
        summary="Bradley-Terry on ranked completions",
        aliases=("bradley-terry",),
    )
    zoo.optimizer(
        "centred-reward-model",
        "alignzoo_reward_models.centred:CentredRewardModel",
        family="reward models",
        summary="Bradley-Terry with scores of mean 0",
        variant_of="reward-model",
    )
    zoo.optimizer(
        "smoothed-reward-model",
        "alignzoo_reward_models.smoothed:SmoothedRewardModel",
        family="reward models",
        summary="Bradley-Terry that expects one label in ten wrong",
        variant_of="reward-model",
    )
    zoo.optimizer(
        "ties-reward-model",
        "alignzoo_reward_models.ties:TiesRewardModel",
        family="reward models",
        summary="Bradley-Terry with ties, as Rao and Kupper have them",
    )
    zoo.optimizer(
        "ordinal-reward-model",
        "alignzoo_reward_models.ordinal:OrdinalRewardModel",
        family="reward models",
        summary="Graded preferences: much or slightly better, as good",
    )
    zoo.optimizer(
        "plackett-luce",
        "alignzoo_reward_models.plackett_luce:PlackettLuce",
        family="reward models",
        summary="Whole rankings: the best first, then the best of the rest",
        aliases=("listwise-reward-model",),
    )


def _of_labels(zoo):
    """Reward models that are trained on scores, labels or attributes."""
    zoo.optimizer(
        "regression-reward-model",
        "alignzoo_reward_models.regression:RegressionRewardModel",
        family="reward models",
        summary="Says the rating itself: mean squared error",
    )
    zoo.optimizer(
        "outcome-reward-model",
        "alignzoo_reward_models.outcome:OutcomeRewardModel",
        family="reward models",
        summary="A verifier: how probably the answer is right",
        aliases=("orm",),
    )
    zoo.optimizer(
        "cost-model",
        "alignzoo_reward_models.cost:CostModel",
        family="reward models",
        summary="Which answer does more harm, and whether one does any",
    )
    zoo.optimizer(
        "attribute-reward-model",
        "alignzoo_reward_models.attributes:AttributeRewardModel",
        family="reward models",
        summary="A rating and several attributes, an output for each",
        aliases=("multi-attribute-reward-model",),
    )
    zoo.optimizer(
        "generalizable-reward-model",
        "alignzoo_reward_models.generalizable:GeneralizableRewardModel",
        family="reward models",
        summary="Bradley-Terry on a trunk that still generates",
        aliases=("grm",),
    )
