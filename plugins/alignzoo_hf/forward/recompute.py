"""Recomputation, also called gradient checkpointing: of each layer its input alone is kept, and the layer is computed
again on the way back.

Chen et al. 2016 (arXiv:1604.06174). The second pass runs under what the first one ran under (how rows attend in one
line, what nobody reads), so that it computes the same to the bit, and gradients are what they are without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from alignzoo.allocator import give_back
from alignzoo_hf.forward.unread import stack

Again = Callable[[], AbstractContextManager[Any]]
"""What the second pass has to run under, made anew for each layer."""


@contextmanager
def recomputing(base: nn.Module, again: Again = nullcontext) -> Iterator[None]:
    """Inside, a trunk's layers keep their inputs alone where a gradient is asked for. A trunk in which no stack of
    layers is found keeps everything."""
    layers = [] if not torch.is_grad_enabled() else stack(base)
    former = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_twice, layer.forward, again)
    try:
        yield
    finally:
        for layer, own in zip(layers, former, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _twice(forward: Callable[..., Any], again: Again, *given: Any, **named: Any) -> Any:
    """A layer's forward, now and on the way back. Nothing in it is random: models are in evaluation mode."""
    give_back()
    contexts = partial(_contexts, again)
    return checkpoint(
        partial(forward, **named), *given, use_reentrant=False, context_fn=contexts, preserve_rng_state=False
    )


def _contexts(again: Again) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _backwards(again)


@contextmanager
def _backwards(again: Again) -> Iterator[None]:
    """Around the second pass, on the way back."""
    give_back()
    with again():
        yield
