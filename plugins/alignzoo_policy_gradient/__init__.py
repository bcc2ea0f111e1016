"""Policy gradients: each optimizer in a file of its own; here they are only registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alignzoo

if TYPE_CHECKING:
    from alignzoo.registry.registrar import Registrar


@alignzoo.hookimpl
def alignzoo_register(zoo: Registrar) -> None:
    _with_a_critic(zoo)
    _reinforce(zoo)
    _regression_and_plain(zoo)
    _groups(zoo)
    _trust_regions(zoo)
    _entropy(zoo)
    _credit(zoo)
    _second_terms(zoo)
    _constraints(zoo)


def _with_a_critic(zoo: Registrar) -> None:
    """Actor and critic."""
    zoo.optimizer(
        "ppo",
        "alignzoo_policy_gradient.ppo:PPO",
        family="policy gradient",
        summary="Proximal policy optimization with a critic, as in RLHF",
    )
    zoo.optimizer(
        "dual-clip-ppo",
        "alignzoo_policy_gradient.dual_clip_ppo:DualClipPPO",
        family="policy gradient",
        summary="PPO with a second clip, of bad answers become likelier",
        variant_of="ppo",
    )
    zoo.optimizer(
        "vc-ppo",
        "alignzoo_policy_gradient.vc_ppo:VCPPO",
        family="policy gradient",
        summary="PPO whose critic has a λ of its own and may learn first",
        variant_of="ppo",
    )
    zoo.optimizer(
        "vapo",
        "alignzoo_policy_gradient.vapo:VAPO",
        family="policy gradient",
        summary="VC-PPO with λ by length, clip-higher, and imitation",
        variant_of="ppo",
    )
    zoo.optimizer(
        "a2c",
        "alignzoo_policy_gradient.a2c:A2C",
        family="policy gradient",
        summary="Advantage actor-critic: a critic, no ratio and no clip",
    )
    zoo.optimizer(
        "apa",
        "alignzoo_policy_gradient.apa:APA",
        family="policy gradient",
        summary="Regression of the log-ratio onto the critic's advantage",
    )


def _reinforce(zoo: Registrar) -> None:
    """REINFORCE with its baselines."""
    zoo.optimizer(
        "reinforce",
        "alignzoo_policy_gradient.reinforce:REINFORCE",
        family="policy gradient",
        summary="REINFORCE with a moving baseline: no critic, no group",
    )
    zoo.optimizer(
        "reinforce-pp",
        "alignzoo_policy_gradient.reinforce_pp:REINFORCEPlusPlus",
        family="policy gradient",
        summary="REINFORCE++: the whole batch is the baseline",
        aliases=("reinforce-plus-plus",),
    )
    zoo.optimizer(
        "reinforce-pp-baseline",
        "alignzoo_policy_gradient.reinforce_pp_baseline:REINFORCEPlusPlusBaseline",
        family="policy gradient",
        summary="REINFORCE++ with the group's mean as baseline",
        aliases=("reinforce-plus-plus-baseline",),
        variant_of="reinforce-pp",
    )
    zoo.optimizer(
        "rloo",
        "alignzoo_policy_gradient.rloo:RLOO",
        family="policy gradient",
        summary="REINFORCE leave-one-out: the others are the baseline",
    )
    zoo.optimizer(
        "topr",
        "alignzoo_policy_gradient.topr:TOPR",
        family="policy gradient",
        summary="Off-policy REINFORCE: bad answers taper off",
    )
    zoo.optimizer(
        "asymre",
        "alignzoo_policy_gradient.asymre:AsymRE",
        family="policy gradient",
        summary="Off-policy REINFORCE with a lower baseline",
    )
    zoo.optimizer(
        "opmd",
        "alignzoo_policy_gradient.opmd:OPMD",
        family="policy gradient",
        summary="Online policy mirror descent, as in Kimi k1.5",
        aliases=("kimi",),
    )


def _regression_and_plain(zoo: Registrar) -> None:
    """Regression onto advantages, and plain policy gradients of a group."""
    zoo.optimizer(
        "dro-token",
        "alignzoo_policy_gradient.dro_token:DROToken",
        family="policy gradient",
        summary="Direct reward optimization, a square for each token",
    )
    zoo.optimizer(
        "opo",
        "alignzoo_policy_gradient.opo:OPO",
        family="policy gradient",
        summary="The group's mean by length, the baseline of least variance",
    )
    zoo.optimizer(
        "gpg",
        "alignzoo_policy_gradient.gpg:GPG",
        family="policy gradient",
        summary="The plain policy gradient, corrected for tied groups",
    )
    zoo.optimizer(
        "maxrl",
        "alignzoo_policy_gradient.maxrl:MaxRL",
        family="policy gradient",
        summary="The gradient of log P(success): (r - mean)/mean",
    )


def _groups(zoo: Registrar) -> None:
    """GRPO, and its normalisers and ratios of whole sequences."""
    zoo.optimizer(
        "grpo",
        "alignzoo_policy_gradient.grpo:GRPO",
        family="policy gradient",
        summary="Group relative policy optimization: groups, no critic",
    )
    zoo.optimizer(
        "dr-grpo",
        "alignzoo_policy_gradient.dr_grpo:DrGRPO",
        family="policy gradient",
        summary="GRPO without the standard deviation and without the length",
        variant_of="grpo",
    )
    zoo.optimizer(
        "dapo",
        "alignzoo_policy_gradient.dapo:DAPO",
        family="policy gradient",
        summary="GRPO with clip-higher and a mean over tokens",
        variant_of="grpo",
    )
    zoo.optimizer(
        "lite-ppo",
        "alignzoo_policy_gradient.lite_ppo:LitePPO",
        family="policy gradient",
        summary="GRPO with the batch's spread and a mean over tokens",
        variant_of="grpo",
    )
    zoo.optimizer(
        "gspo",
        "alignzoo_policy_gradient.gspo:GSPO",
        family="policy gradient",
        summary="GRPO with the sequence's ratio",
        variant_of="grpo",
    )
    zoo.optimizer(
        "luspo",
        "alignzoo_policy_gradient.luspo:LUSPO",
        family="policy gradient",
        summary="GSPO times the length",
        variant_of="grpo",
    )
    zoo.optimizer(
        "gspo-token",
        "alignzoo_policy_gradient.gspo_token:GSPOToken",
        family="policy gradient",
        summary="GSPO with an advantage for each token",
        variant_of="grpo",
    )
    zoo.optimizer(
        "gmpo",
        "alignzoo_policy_gradient.gmpo:GMPO",
        family="policy gradient",
        summary="GRPO with ratios multiplied over a sequence, not averaged",
    )


def _trust_regions(zoo: Registrar) -> None:
    """GRPO with another bound of the ratio."""
    zoo.optimizer(
        "cispo",
        "alignzoo_policy_gradient.cispo:CISPO",
        family="policy gradient",
        summary="The ratio only weighs, and its weight is cut",
    )
    zoo.optimizer(
        "sapo",
        "alignzoo_policy_gradient.sapo:SAPO",
        family="policy gradient",
        summary="A soft gate in the place of the clip",
    )
    zoo.optimizer(
        "vespo",
        "alignzoo_policy_gradient.vespo:VESPO",
        family="policy gradient",
        summary="A smooth weight by the whole sequence's ratio",
    )
    zoo.optimizer(
        "dppo",
        "alignzoo_policy_gradient.dppo:DPPO",
        family="policy gradient",
        summary="A trust region of probabilities, not of ratios",
        aliases=("dppo-tv",),
    )
    zoo.optimizer(
        "dppo-kl",
        "alignzoo_policy_gradient.dppo_kl:DPPOKL",
        family="policy gradient",
        summary="DPPO with a KL in the place of the total variation",
        variant_of="dppo",
    )
    zoo.optimizer(
        "m2po",
        "alignzoo_policy_gradient.m2po:M2PO",
        family="policy gradient",
        summary="Tokens are masked until the batch's second moment is small",
    )


def _entropy(zoo: Registrar) -> None:
    """GRPO that keeps up the entropy."""
    zoo.optimizer(
        "clip-cov",
        "alignzoo_policy_gradient.clip_cov:ClipCov",
        family="policy gradient",
        summary="Tokens that lower the entropy most get no gradient",
    )
    zoo.optimizer(
        "kl-cov",
        "alignzoo_policy_gradient.kl_cov:KLCov",
        family="policy gradient",
        summary="Tokens that lower the entropy most are held",
    )
    zoo.optimizer(
        "entropy-mask",
        "alignzoo_policy_gradient.entropy_mask:EntropyMask",
        family="policy gradient",
        summary="Only tokens of high entropy are trained on (80/20)",
        aliases=("80-20",),
    )


def _credit(zoo: Registrar) -> None:
    """Another credit for the answers of a group, or another baseline."""
    zoo.optimizer(
        "pass-at-k",
        "alignzoo_policy_gradient.pass_at_k:PassAtK",
        family="policy gradient",
        summary="Credit for right answers among k tries, analytically",
    )
    zoo.optimizer(
        "max-at-k",
        "alignzoo_policy_gradient.max_at_k:MaxAtK",
        family="policy gradient",
        summary="Credit for the best answer's lead alone",
        aliases=("grpo-passk",),
    )
    zoo.optimizer(
        "gdpo",
        "alignzoo_policy_gradient.gdpo:GDPO",
        family="policy gradient",
        summary="Each of several rewards is scaled by itself",
    )
    zoo.optimizer(
        "gfpo",
        "alignzoo_policy_gradient.gfpo:GFPO",
        family="policy gradient",
        summary="GRPO on the shortest answers of a larger group",
    )
    zoo.optimizer(
        "gfpo-efficiency",
        "alignzoo_policy_gradient.gfpo_efficiency:GFPOEfficiency",
        family="policy gradient",
        summary="GFPO by reward per token",
        variant_of="gfpo",
    )
    zoo.optimizer(
        "remax",
        "alignzoo_policy_gradient.remax:ReMax",
        family="policy gradient",
        summary="REINFORCE with the greedy answer's reward as baseline",
    )
    zoo.sampler("and-greedy", "alignzoo_policy_gradient.remax:AndGreedy")
    zoo.optimizer(
        "a-star-po",
        "alignzoo_policy_gradient.a_star_po:AStarPO",
        family="policy gradient",
        summary="Regression onto the optimal advantage: one answer a prompt",
        aliases=("a2po", "astar-po"),
    )
    zoo.sampler("with-optimal-value", "alignzoo_policy_gradient.a_star_po:WithOptimalValue")
    zoo.optimizer(
        "dcpo",
        "alignzoo_policy_gradient.dcpo:DCPO",
        family="policy gradient",
        summary="A clip by each token's probability, z-scores with a memory",
    )
    zoo.sampler("remembering", "alignzoo_policy_gradient.dcpo:Remembering")


def _second_terms(zoo: Registrar) -> None:
    """A teacher, process rewards, demonstrations or other text beside the rewards."""
    zoo.optimizer(
        "kdrl",
        "alignzoo_policy_gradient.kdrl:KDRL",
        family="policy gradient",
        summary="GRPO with a teacher: the reverse KL to it in the loss",
        aliases=("grpo-teacher",),
    )
    zoo.optimizer(
        "prime",
        "alignzoo_policy_gradient.prime:PRIME",
        family="policy gradient",
        summary="Outcome and process rewards, each with its own baseline",
    )
    zoo.optimizer(
        "chord",
        "alignzoo_policy_gradient.chord:CHORD",
        family="policy gradient",
        summary="GRPO and weighed imitation of demonstrations in one step",
        aliases=("chord-phi",),
    )
    zoo.optimizer(
        "ppo-ptx",
        "alignzoo_policy_gradient.ppo_ptx:PPOptx",
        family="policy gradient",
        summary="PPO that keeps up the likelihood of other text",
        variant_of="ppo",
    )
    zoo.sampler("and-demonstrations", "alignzoo_policy_gradient.demonstrations:AndDemonstrations")


def _constraints(zoo: Registrar) -> None:
    """Limits on costs, and several rewards at once."""
    zoo.optimizer(
        "lagrangian-grpo",
        "alignzoo_policy_gradient.lagrangian_grpo:LagrangianGRPO",
        family="constraints",
        summary="GRPO under limits on costs, with learnt multipliers",
        aliases=("grpo-lag",),
    )
    zoo.optimizer(
        "lagrangian-ppo",
        "alignzoo_policy_gradient.lagrangian_ppo:LagrangianPPO",
        family="constraints",
        summary="PPO under limits on costs, with learnt multipliers",
        aliases=("ppo-lag", "safe-rlhf"),
    )
    zoo.optimizer(
        "repo",
        "alignzoo_policy_gradient.repo:RePO",
        family="constraints",
        summary="PPO under limits that hold for each answer by itself",
        aliases=("rectified-po",),
        variant_of="lagrangian-ppo",
    )
    zoo.optimizer(
        "max-min",
        "alignzoo_policy_gradient.max_min:MaxMin",
        family="constraints",
        summary="The worst off of several rewards is raised",
        aliases=("maxmin-rlhf",),
    )
    zoo.optimizer(
        "ensemble-grpo",
        "alignzoo_policy_gradient.ensemble_grpo:EnsembleGRPO",
        family="constraints",
        summary="GRPO on several reward models, less where they disagree",
        aliases=("uwo", "wco"),
    )
