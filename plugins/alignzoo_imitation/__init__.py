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
