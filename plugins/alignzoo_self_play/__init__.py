"""Online preferences and self-play: a policy learns from comparisons of its own answers."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer(
        "rebel", "alignzoo_self_play.rebel:REBEL", family="self-play", summary="Regression to relative rewards"
    )
    zoo.optimizer(
        "copg",
        "alignzoo_self_play.copg:CoPG",
        family="self-play",
        summary="Contrastive policy gradient: the other is the baseline",
    )
    zoo.optimizer(
        "inpo",
        "alignzoo_self_play.inpo:INPO",
        family="self-play",
        summary="Iterative Nash policy optimization, held to a reference",
    )
    zoo.optimizer(
        "sppo",
        "alignzoo_self_play.sppo:SPPO",
        family="self-play",
        summary="How much likelier an answer becomes is how often it wins",
    )
    zoo.optimizer(
        "dno",
        "alignzoo_self_play.dno:DNO",
        family="self-play",
        summary="Direct Nash optimization: a contrast that follows win rates",
    )
    zoo.optimizer(
        "selm",
        "alignzoo_self_play.selm:SELM",
        family="self-play",
        summary="DPO that is optimistic about what was not tried",
    )
    zoo.optimizer(
        "xpo",
        "alignzoo_self_play.xpo:XPO",
        family="self-play",
        summary="DPO with a bonus for what the reference would not say",
    )
    zoo.optimizer(
        "nash-md",
        "alignzoo_self_play.nash_md:NashMD",
        family="self-play",
        summary="Mirror descent toward the Nash equilibrium of preferences",
    )
    zoo.sampler(
        "and-mixture",
        "alignzoo_self_play.nash_md:AndMixture",
        summary="The policy's answer and one of its mixture with the reference",
    )
    zoo.sampler(
        "and-reference", "alignzoo_self_play.xpo:AndReference", summary="The policy's answer and its reference's"
    )
