"""Models that are not trained: references and reward models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def freeze(model: Any, *, bf16: bool) -> Any:
    """The model without gradients, and where it computes in bf16 autocast, with its linear layers' matrices in bf16.

    Autocast casts these at every pass in any case, so that the answers are the same to the bit, with half the memory.
    Norms, embeddings and biases stay in float32, and so does a head that is tied to the embeddings: what autocast
    leaves in float32 would be rounded otherwise.
    """
    model.requires_grad_(False)
    if bf16:
        for weight in matrices(model):
            weight.data = weight.data.to(torch.bfloat16)
    return model


def matrices(model: Any) -> Iterator[nn.Parameter]:
    """The matrices of its linear layers that nothing else shares."""
    others = (m for m in model.modules() if type(m) not in (nn.Linear, Conv1D))
    shared = {id(weight) for module in others for weight in module.parameters(recurse=False)}
    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D) and id(module.weight) not in shared:
            yield module.weight
