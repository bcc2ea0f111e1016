"""Distillation: a policy learns from a teacher's probabilities, or from the best of its own answers."""

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
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
