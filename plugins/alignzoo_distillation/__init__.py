"""Distillation: a policy learns from a teacher's probabilities, or from the best of its own answers."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    _of_tokens(zoo)
    _of_answers(zoo)


def _of_tokens(zoo):
    """Divergences between the student and its teacher, token by token."""
    zoo.optimizer(
        "bond",
        "alignzoo_distillation.bond:BOND",
        family="distillation",
        summary="Best-of-n distillation: a sample as good as the best",
    )
    zoo.optimizer(
        "on-policy-distillation",
        "alignzoo_distillation.on_policy:OnPolicyDistillation",
        family="distillation",
        aliases=("opd",),
        summary="A policy gradient towards a teacher, token by token",
    )
    zoo.optimizer(
        "gkd",
        "alignzoo_distillation.gkd:GKD",
        family="distillation",
        summary="Jensen-Shannon divergence to a teacher over the vocabulary",
    )
    zoo.optimizer(
        "forward-kd",
        "alignzoo_distillation.forward_kd:ForwardKD",
        family="distillation",
        variant_of="gkd",
        summary="The forward KL to a teacher, on given text",
    )
    zoo.optimizer(
        "reverse-kd",
        "alignzoo_distillation.reverse_kd:ReverseKD",
        family="distillation",
        variant_of="gkd",
        summary="The reverse KL to a teacher, on the policy's own text",
    )
    zoo.optimizer(
        "top-k-distillation",
        "alignzoo_distillation.top_k:TopKDistillation",
        family="distillation",
        summary="The forward KL over a teacher's likeliest tokens",
    )
    zoo.optimizer(
        "distillm",
        "alignzoo_distillation.distillm:DistiLLM",
        family="distillation",
        aliases=("skew-kl",),
        summary="The skew KL to a teacher, bounded wherever the text is from",
    )
    zoo.optimizer(
        "distillm-reverse",
        "alignzoo_distillation.distillm_reverse:ReverseDistiLLM",
        family="distillation",
        variant_of="distillm",
        summary="A skew reverse KL to a teacher, on the policy's own text",
    )


def _of_answers(zoo):
    """Whole answers: what a teacher, or the best of several, would have said."""
    zoo.optimizer(
        "minillm",
        "alignzoo_distillation.minillm:MiniLLM",
        family="distillation",
        summary="The reverse KL of whole answers, by a policy gradient",
    )
    zoo.optimizer(
        "j-bond",
        "alignzoo_distillation.j_bond:JBOND",
        family="distillation",
        summary="Best-of-n distillation with an anchor that follows",
    )
    zoo.sampler("beside-anchor", "alignzoo_distillation.j_bond:BesideAnchor")
    zoo.optimizer(
        "self-distillation",
        "alignzoo_distillation.self_distillation:SelfDistillation",
        family="distillation",
        aliases=("opsd", "sdft"),
        summary="The policy, shown the right answer, teaches itself",
    )
    zoo.sampler("shown-answer", "alignzoo_distillation.shown_answer:ShownAnswer")
    zoo.optimizer(
        "vbon",
        "alignzoo_distillation.vbon:VBoN",
        family="distillation",
        summary="Variational best-of-n: a reward counts by its quantile",
    )
