"""Lists, scores and unpaired labels: what is known of answers without pairing them."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    _labels(zoo)
    _lists(zoo)
    _steps(zoo)


def _labels(zoo):
    """Answers with a label each."""
    zoo.optimizer(
        "kto",
        "alignzoo_unpaired.kto:KTO",
        family="unpaired labels",
        summary="Kahneman-Tversky: good and bad answers, each by itself",
    )
    zoo.optimizer(
        "bco",
        "alignzoo_unpaired.bco:BCO",
        family="unpaired labels",
        summary="A classifier whose logit is the implicit reward",
    )
    zoo.optimizer(
        "apo-zero-unpaired",
        "alignzoo_unpaired.apo_zero:APOZeroUnpaired",
        family="unpaired labels",
        summary="Anchored: raise desirable answers, lower the others",
    )
    zoo.optimizer(
        "pointwise-dpo",
        "alignzoo_unpaired.pointwise:PointwiseDPO",
        family="unpaired labels",
        summary="DPO of single answers",
    )
    zoo.optimizer(
        "ulma",
        "alignzoo_unpaired.ulma:ULMA",
        family="unpaired labels",
        summary="Imitate the desirable answers, move away from the others",
    )
    zoo.optimizer(
        "unlikelihood",
        "alignzoo_unpaired.unlikelihood:Unlikelihood",
        family="unpaired labels",
        summary="Say what is desirable and not the rest, token by token",
    )
    zoo.optimizer(
        "dro-v",
        "alignzoo_unpaired.dro_v:DROV",
        family="unpaired labels",
        summary="A reward for each answer, and a value of the prompt",
        aliases=("dro",),
    )


def _lists(zoo):
    """Answers with ranks or scores."""
    zoo.optimizer(
        "rrhf",
        "alignzoo_unpaired.rrhf:RRHF",
        family="lists and scores",
        summary="Ranks of mean log-probabilities, and the best imitated",
    )
    zoo.optimizer(
        "pro",
        "alignzoo_unpaired.pro:PRO",
        family="lists and scores",
        summary="Each answer against all below it, by how much worse",
    )
    zoo.optimizer(
        "pl-dpo",
        "alignzoo_unpaired.plackett_luce:PLDPO",
        family="lists and scores",
        summary="DPO on whole rankings",
        aliases=("plackett-luce-dpo",),
    )
    zoo.optimizer(
        "lipo",
        "alignzoo_unpaired.lipo:LiPO",
        family="lists and scores",
        summary="LiPO-λ: all pairs, weighed by gains and places",
        aliases=("lipo-lambda",),
    )
    zoo.optimizer(
        "infonca",
        "alignzoo_unpaired.infonca:InfoNCA",
        family="lists and scores",
        summary="Noise-contrastive: which of the answers, by the rewards",
    )
    zoo.optimizer(
        "listwise-nca",
        "alignzoo_unpaired.nca:NCA",
        family="lists and scores",
        summary="Noise-contrastive: each answer by itself against noise",
    )
    zoo.optimizer(
        "lire",
        "alignzoo_unpaired.lire:LIRE",
        family="lists and scores",
        summary="The expected reward of a draw from a prompt's answers",
    )
    zoo.optimizer(
        "opo-ndcg",
        "alignzoo_unpaired.opo_ndcg:OPONDCG",
        family="lists and scores",
        summary="The ranking metric NDCG itself, made smooth",
        aliases=("neural-ndcg",),
    )


def _steps(zoo):
    """Labels of whole answers, from which steps get their rewards."""
    zoo.optimizer(
        "implicit-prm",
        "alignzoo_unpaired.implicit_prm:ImplicitPRM",
        family="reward models",
        summary="A process reward from right and wrong answers alone",
        variant_of="pointwise-dpo",
    )
    zoo.sampler("mismatched", "alignzoo_unpaired.mismatched:Mismatched")
