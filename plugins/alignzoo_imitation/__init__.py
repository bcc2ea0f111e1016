"""Imitation: a policy learns to say what good answers say."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer(
        "sft",
        "alignzoo_imitation.sft:SFT",
        family="imitation",
        summary="Supervised fine-tuning: imitate the best of each group",
    )
    zoo.optimizer(
        "dft",
        "alignzoo_imitation.dft:DFT",
        family="imitation",
        summary="SFT that trusts the policy's own probabilities",
    )
    zoo.optimizer(
        "rwr",
        "alignzoo_imitation.rwr:RWR",
        family="imitation",
        summary="Reward-weighted regression: the better ones count more",
    )
    zoo.optimizer(
        "awr", "alignzoo_imitation.awr:AWR", family="imitation", summary="Advantage-weighted regression, with a critic"
    )
    zoo.optimizer(
        "bonbon",
        "alignzoo_imitation.bonbon:BoNBoN",
        family="imitation",
        summary="As good as the best of n, from the best and the worst",
    )
    zoo.optimizer(
        "filtered-sft",
        "alignzoo_imitation.filtered:FilteredSFT",
        family="imitation",
        summary="Imitate every completion that is good enough",
        aliases=("rft", "rejection-sampling"),
    )
    zoo.sampler("rationalised", "alignzoo_imitation.rationalised:Rationalised")
