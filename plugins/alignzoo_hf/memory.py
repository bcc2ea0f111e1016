"""How many tokens a pass takes: what a device's memory is good for."""

from __future__ import annotations

from alignzoo import cost
from alignzoo.cost import ModelShape

SMALL = 1 << 25
"""Bytes from where on the C library maps every new tensor's pages afresh, which costs more than computing it."""

ON_CPU = (256, 2048)
"""Tokens at least, for matrix products to be efficient, and at most, beyond which nothing is gained."""

ON_GPU = (1024, 65_536)
"""The same for a GPU."""

SHARE = 0.6
"""Of the free memory for activations; the rest is for logits, temporaries, and what allocators lose."""


def on_cpu(shape: ModelShape) -> int:
    """As many tokens as keep the widest tensor of a layer small, in float32."""
    widest = max(shape.intermediate, shape.hidden, shape.heads * shape.head_dim)
    return _within(SMALL // (cost.FLOAT32 * widest), *ON_CPU)


def on_gpu(shape: ModelShape, free: int, width: int) -> int:
    """As many tokens as the free bytes hold the activations of, in `width` bytes, once gradients and AdamW's moments
    have theirs."""
    left = free - cost.gradient_bytes(shape) - cost.adamw_bytes(shape)
    return _within(int(SHARE * left / cost.activation_bytes(shape, 1, width)), *ON_GPU)


def _within(tokens: int, least: int, most: int) -> int:
    """The power of two below, between the two."""
    return min(most, max(least, 1 << max(0, tokens.bit_length() - 1))) if tokens > 0 else least
