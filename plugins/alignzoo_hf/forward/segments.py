"""Rows that lie one behind the other in a line, and a CPU's flash attention over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend

from alignzoo_hf.forward.head import wide

aten = torch.ops.aten


@dataclass(frozen=True)
class Piece:
    """A row in the line: its own tokens, and the beginning that it shares with the first row of its group."""

    start: int
    stop: int
    """Its own tokens are the line's from `start` to `stop`."""
    beginning: int
    shared: int
    """The shared ones are so many of the line's from `beginning` on; 0 where the row lies whole."""

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def sees(self) -> int:
        """How many tokens it looks at."""
        return self.shared + self.length

    @property
    def own(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def borrowed(self) -> slice:
        return slice(self.beginning, self.beginning + self.shared)

    def seen(self, line: Tensor) -> Tensor:
        """What the row looks at, of the keys or values (1, H, P, D) of the line."""
        own = line[:, :, self.own]
        return torch.cat([line[:, :, self.borrowed], own], 2) if self.shared else own


Masked = tuple[Piece, Tensor | None]
"""A piece, and its mask as `scaled_dot_product_attention` takes it; None: causal and no more."""


class Attended(torch.autograd.Function):
    """softmax(scale·QKᵀ, masked)·V of every piece, (1, P, H, D), with one entry in the graph for all of them.

    What a piece looks at is put together again for its gradient instead of being kept, and gradients are written where
    they belong.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Sequence[Masked], scale: float) -> Tensor:
        _, heads, line, size = query.shape
        out = query.new_empty(1, line, heads, size)
        sums = query.new_empty(1, line, heads, dtype=wide(query.dtype))
        for piece, mask in pieces:
            q, k, v = query[:, :, piece.own], piece.seen(key), piece.seen(value)
            answer = aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
            )
            for whole, part in zip((out, sums), answer, strict=True):
                whole[:, piece.own] = part.transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.pieces, ctx.scale = pieces, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *by_token = ctx.saved_tensors
        d_query, d_key, d_value = map(_blank, (query, key, value))
        for piece, mask in ctx.pieces:
            d_out, out, sums = (each[:, piece.own].transpose(1, 2) for each in (upstream, *by_token))
            q, k, v = query[:, :, piece.own], piece.seen(key), piece.seen(value)
            d_q, *d_seen = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                d_out, q, k, v, out, sums, 0.0, mask is None, attn_mask=mask, scale=ctx.scale
            )
            d_query[:, :, piece.own] = d_q
            for whole, d in zip((d_key, d_value), d_seen, strict=True):
                whole[:, :, piece.own] = d[:, :, piece.shared :]
                if piece.shared:  # the first row of the group, whose own these are, comes before
                    whole[:, :, piece.borrowed] += d[:, :, : piece.shared]
        return d_query, d_key, d_value, None, None


def _blank(states: Tensor) -> Tensor:
    """Room for as many, token by token in memory, as the projections that made them are."""
    return torch.empty_like(states.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def is_flash(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch takes its flash kernel for these on a CPU."""
    if query.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    grouped = query.shape[1] != key.shape[1]
    chosen: int = torch._fused_sdp_choice(query, key, value, None, 0.0, True, enable_gqa=grouped)
    return chosen == SDPBackend.FLASH_ATTENTION.value
