"""A copy of a language model that generates in one thread while the model is trained in another."""

from __future__ import annotations

import copy
from typing import Any

import torch

from alignzoo_hf.model.frozen import matrices


def copied(lm: Any, *, bf16: bool) -> tuple[Any, frozenset[str]]:
    """The copy, whose frozen weights are the model's own, and the names of those that are trained, as a policy's state
    has them.

    Where it computes in bf16 autocast, the copy's trained matrices are bf16, which autocast makes of them in any case,
    and nothing else asks for a gradient: so autocast keeps no casts for it. All threads keep theirs in one place, which
    is emptied when any of them is done, and a recorded CUDA graph would go on reading them.
    """
    frozen = {id(weight): weight for weight in lm.parameters() if not weight.requires_grad}
    own = copy.deepcopy(lm, frozen)
    trained = [(f"lm.{name}", weight) for name, weight in own.named_parameters() if weight.requires_grad]
    if bf16:
        for weight in matrices(own):
            if weight.requires_grad:
                weight.data = weight.data.to(torch.bfloat16)
        for _, weight in trained:
            weight.requires_grad_(weight.dtype == torch.bfloat16)
    return own, frozenset(name for name, _ in trained)
