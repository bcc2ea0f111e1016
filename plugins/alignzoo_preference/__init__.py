"""Plugin `preference`: optimizers that learn from pairs of a better and a worse answer, one file each."""

from __future__ import annotations

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    _losses_of_the_margin(zoo)
    _noisy_and_anchored(zoo)
    _mixed_and_divergences(zoo)
    _length_scale_and_noise(zoo)
    _ties_and_dispersion(zoo)
    _without_a_reference(zoo)
    _weights_and_references(zoo)


def _losses_of_the_margin(zoo):
    """DPO, and other losses of the same margin of log-ratios."""
    zoo.optimizer(
        "dpo",
        "alignzoo_preference.dpo:DPO",
        family="preference",
        summary="Direct preference optimization: best against worst",
        aliases=("sigmoid",),
    )
    zoo.optimizer(
        "cdpo",
        "alignzoo_preference.cdpo:ConservativeDPO",
        family="preference",
        summary="DPO that assumes some labels to be the wrong way round",
        aliases=("conservative-dpo",),
        variant_of="dpo",
    )
    zoo.optimizer(
        "ipo",
        "alignzoo_preference.ipo:IPO",
        family="preference",
        summary="A fixed margin, no less and no more",
    )
    zoo.optimizer(
        "slic",
        "alignzoo_preference.slic:SLiC",
        family="preference",
        summary="Sequence likelihood calibration: the hinge loss",
        aliases=(
            "hinge",
            "slic-hf",
        ),
    )
    zoo.optimizer(
        "exo-pair",
        "alignzoo_preference.exo:EXO",
        family="preference",
        summary="The reverse KL to smoothed labels",
        aliases=(
            "exo_pair",
            "exo",
        ),
    )
    zoo.optimizer(
        "nca-pair",
        "alignzoo_preference.nca:NCA",
        family="preference",
        summary="Noise-contrastive: absolute likelihoods of both answers",
        aliases=(
            "nca_pair",
            "nca",
        ),
    )


def _noisy_and_anchored(zoo):
    """Losses for labels that may be wrong, for whole distributions, and with an anchor for either answer."""
    zoo.optimizer(
        "robust-dpo",
        "alignzoo_preference.robust_dpo:RobustDPO",
        family="preference",
        summary="DPO whose loss is unbiased under flipped labels",
        aliases=("robust",),
    )
    zoo.optimizer(
        "bco-pair",
        "alignzoo_preference.bco:BCO",
        family="preference",
        summary="Each answer of a pair good or bad by itself",
        aliases=("bco_pair",),
    )
    zoo.optimizer(
        "sppo-hard",
        "alignzoo_preference.sppo:SPPO",
        family="preference",
        summary="Regress log-ratios on win or loss",
        aliases=("sppo_hard",),
    )
    zoo.optimizer(
        "aot",
        "alignzoo_preference.aot:AOT",
        family="preference",
        summary="Optimal transport: sorted margins above the reference's",
    )
    zoo.optimizer(
        "aot-unpaired",
        "alignzoo_preference.aot_unpaired:UnpairedAOT",
        family="preference",
        summary="Optimal transport: good answers above bad ones, sorted",
        aliases=("aot_unpaired",),
        variant_of="aot",
    )
    zoo.optimizer(
        "apo-zero",
        "alignzoo_preference.apo_zero:APOZero",
        family="preference",
        summary="Anchored: raise the better answer, lower the worse one",
        aliases=("apo_zero",),
    )
    zoo.optimizer(
        "apo-down",
        "alignzoo_preference.apo_down:APODown",
        family="preference",
        summary="Anchored: lower both answers, the worse one more",
        aliases=("apo_down",),
    )
    zoo.optimizer(
        "discopop",
        "alignzoo_preference.discopop:DiscoPOP",
        family="preference",
        summary="A discovered loss, between logistic and exponential",
    )


def _mixed_and_divergences(zoo):
    """Losses with a second term, and other divergences or scales in place of the log-ratio."""
    zoo.optimizer(
        "rpo",
        "alignzoo_preference.rpo:RPO",
        family="preference",
        summary="DPO with the likelihood of the better answer",
        aliases=(
            "dpo-nll",
            "iterative-rpo",
        ),
    )
    zoo.optimizer(
        "mpo",
        "alignzoo_preference.mpo:MPO",
        family="preference",
        summary="Mixed: comparison, classification and likelihood",
    )
    zoo.optimizer(
        "dpo-norm",
        "alignzoo_preference.dpo_norm:LengthNormalisedDPO",
        family="preference",
        summary="Length-normalised DPO, as Tülu 3 was trained",
        aliases=("sigmoid_norm",),
    )
    zoo.optimizer(
        "f-dpo",
        "alignzoo_preference.f_dpo:FDPO",
        family="preference",
        summary="DPO under another f-divergence than the reverse KL",
        aliases=("fdpo",),
    )
    zoo.optimizer(
        "chi-po",
        "alignzoo_preference.chi_po:ChiPO",
        family="preference",
        summary="χ²-preference optimization: a χ² penalty beside the KL",
        aliases=("chipo",),
    )
    zoo.optimizer(
        "gpo",
        "alignzoo_preference.gpo:GPO",
        family="preference",
        summary="Any convex function of the margin",
    )
    zoo.optimizer(
        "dpo-positive",
        "alignzoo_preference.dpo_positive:DPOPositive",
        family="preference",
        summary="DPO that does not lower the better answer",
        aliases=(
            "dpop",
            "smaug",
        ),
    )


def _length_scale_and_noise(zoo):
    """DPO that minds length, the scale of its rewards, or unreliable pairs."""
    zoo.optimizer(
        "r-dpo",
        "alignzoo_preference.r_dpo:RDPO",
        family="preference",
        summary="Length-regularised DPO: a longer answer has to be better",
        aliases=("lr-dpo",),
    )
    zoo.optimizer(
        "ld-dpo",
        "alignzoo_preference.ld_dpo:LDDPO",
        family="preference",
        summary="Length-desensitised: the longer answer's tail counts less",
        aliases=("lddpo",),
    )
    zoo.optimizer(
        "cal-dpo",
        "alignzoo_preference.cal_dpo:CalDPO",
        family="preference",
        summary="Calibrated DPO: implicit rewards have the true ones' size",
    )
    zoo.optimizer(
        "beta-dpo",
        "alignzoo_preference.beta_dpo:BetaDPO",
        family="preference",
        summary="DPO with a β of each minibatch",
    )
    zoo.optimizer(
        "alpha-dpo",
        "alignzoo_preference.alpha_dpo:AlphaDPO",
        family="preference",
        summary="A margin that the reference sets for each pair",
    )
    zoo.optimizer(
        "dr-dpo",
        "alignzoo_preference.dr_dpo:DrDPO",
        family="preference",
        summary="Robust DPO: pairs that fit badly count less",
        aliases=("drdpo",),
    )
    zoo.optimizer(
        "odpo",
        "alignzoo_preference.odpo:ODPO",
        family="preference",
        summary="DPO with an offset by the scores",
    )


def _ties_and_dispersion(zoo):
    """Pairs that may be tied, or prompts that people agree on more than on others."""
    zoo.optimizer(
        "dpo-rk",
        "alignzoo_preference.rao_kupper:RaoKupperDPO",
        family="preference",
        summary="DPO with ties, after Rao and Kupper",
        aliases=("todo",),
    )
    zoo.optimizer(
        "dpo-d",
        "alignzoo_preference.davidson:DavidsonDPO",
        family="preference",
        summary="DPO with ties, after Davidson",
    )
    zoo.optimizer(
        "mallows-po",
        "alignzoo_preference.mallows:MallowsPO",
        family="preference",
        summary="DPO weighed by how much people agree on a prompt",
        aliases=("mallowspo",),
    )


def _without_a_reference(zoo):
    """Losses that ask no reference."""
    zoo.optimizer(
        "simpo",
        "alignzoo_preference.simpo:SimPO",
        family="preference",
        summary="Mean log-probability, no reference",
    )
    zoo.optimizer(
        "cpo-simpo",
        "alignzoo_preference.cpo_simpo:CPOSimPO",
        family="preference",
        summary="SimPO with the likelihood of the better answer",
        aliases=("cposimpo",),
        variant_of="simpo",
    )
    zoo.optimizer(
        "alphapo",
        "alignzoo_preference.alphapo:AlphaPO",
        family="preference",
        summary="SimPO with another shape of the reward",
    )
    zoo.optimizer(
        "simper",
        "alignzoo_preference.simper:SimPER",
        family="preference",
        summary="Inverse perplexities: no reference, no hyper-parameter",
    )
    zoo.optimizer(
        "cpo",
        "alignzoo_preference.cpo:CPO",
        family="preference",
        summary="No reference, and the better answer's likelihood beside",
    )
    zoo.optimizer(
        "orpo",
        "alignzoo_preference.orpo:ORPO",
        family="preference",
        summary="Odds ratio: fine-tuning and preference in one",
    )
    zoo.optimizer(
        "tpo",
        "alignzoo_preference.tpo:TPO",
        family="preference",
        summary="Imitate the best, prefer the next to the worst",
    )
    zoo.optimizer(
        "npo",
        "alignzoo_preference.npo:NPO",
        family="preference",
        summary="Negative preference optimization: unlearn bad answers",
    )


def _weights_and_references(zoo):
    """Pairs or tokens with weights, a moving reference, several objectives."""
    zoo.optimizer(
        "wpo",
        "alignzoo_preference.wpo:WPO",
        family="preference",
        summary="Pairs count as the policy would generate them",
    )
    zoo.optimizer(
        "tdpo",
        "alignzoo_preference.tdpo:TDPO",
        family="preference",
        summary="Token-level DPO: the KL along each answer is held, too",
        aliases=("tdpo2",),
    )
    zoo.optimizer(
        "tdpo1",
        "alignzoo_preference.tdpo1:TDPO1",
        family="preference",
        summary="Token-level DPO with gradients through both divergences",
        variant_of="tdpo",
    )
    zoo.optimizer(
        "tr-dpo",
        "alignzoo_preference.tr_dpo:TRDPO",
        family="preference",
        summary="Trust-region DPO: the reference follows the policy",
        aliases=("trdpo",),
    )
    zoo.optimizer(
        "modpo",
        "alignzoo_preference.modpo:MODPO",
        family="constraints",
        summary="DPO with a margin that other rewards ask for",
    )
