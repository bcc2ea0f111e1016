"""What a transformers model costs: its sizes, read from its configuration and counted on its modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from alignzoo.cost import ModelShape
from alignzoo_hf.model import models
from alignzoo_hf.model.spec import HF

WIDTHS = ("intermediate_size", "ffn_dim", "n_inner")
"""What families call the width of the feed-forward layer; those that name none have four times the hidden size."""


def shape_of(model: Any, critic: ModelShape | None = None) -> ModelShape:
    """The sizes of a language model or a scorer, on any device, the meta device too."""
    inner = models.bare(model)
    config = inner.config.get_text_config()
    layers, hidden = config.num_hidden_layers, config.hidden_size
    heads = getattr(config, "num_attention_heads", 0)  # a state space model has none, and its recurrence is not counted
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or (hidden // heads if heads else 0)
    parameters = list(model.parameters())
    bare, trunk = (_multiplied(inner.base_model, adapters=adapters) for adapters in (False, True))
    feed_forward = bare / layers - 2 * hidden * head_dim * (heads + kv_heads)
    width = next((size for name in WIDTHS if (size := getattr(config, name, None))), 4 * hidden)
    gated = feed_forward > 2.5 * hidden * width
    head = inner.get_output_embeddings()
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=round(feed_forward / hidden / (3 if gated else 2)),
        gated=gated,
        vocab=config.vocab_size,
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        trunk=trunk,
        tied=head is not None and head.weight is inner.get_input_embeddings().weight,
        critic=critic,
    )


def _multiplied(trunk: nn.Module, *, adapters: bool) -> int:
    """The weights that a token is multiplied with: linear layers, and of experts as many as a token is sent to."""
    total = 0.0
    sent_to = getattr(trunk.config, "num_experts_per_tok", 1)
    for name, module in trunk.named_modules():
        if "lora_" in name and not adapters:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            packed = isinstance(module, nn.Linear) and not module.weight.is_floating_point()
            total += module.in_features * module.out_features if packed else module.weight.numel()
        elif hasattr(module, "num_experts"):
            stacked = [each for each in module.parameters(recurse=False) if each.ndim == 3]
            total += sum(each.numel() for each in stacked) * sent_to / module.num_experts
    return round(total)


def critics_of(spec: HF, critics: Sequence[ModelShape]) -> ModelShape | None:
    """The critics with trunks of their own, each with the next one; None where there are none. An adapter's lie on the
    policy's trunk."""
    shared = bool(spec.lora_rank) and not spec.critic_model
    chain: ModelShape | None = None
    for each in reversed(critics):
        chain = replace(each, shared=shared, critic=chain)
    return chain
