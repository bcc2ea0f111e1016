"""A copy of a language model that generates in one thread while the model is trained in another."""

from __future__ import annotations

import copy
from typing import Any

import torch

from alignzoo.engines import not_ahead
from alignzoo.errors import ModelError
from alignzoo_hf.decode.engines import engine_of
from alignzoo_hf.model.frozen import matrices
from alignzoo_hf.model.spec import HF


def check(spec: HF, *, writes: bool, sharded: bool) -> None:
    """Raise ModelError where a policy cannot generate while it is trained."""
    if not writes:
        raise ModelError("the policy only scores: it cannot generate while it is trained. Set schedule.ahead to 0")
    if sharded:
        raise ModelError(
            "the policy is sharded over the processes, so that each would have to hold a whole copy beside its part to "
            "generate while it is trained: set policy.shard=none, or schedule.ahead=0"
        )
    if why := not_ahead(engine := engine_of(spec)):
        raise ModelError(f"the engine {type(engine).__name__} cannot generate while the policy is trained: {why}")


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
