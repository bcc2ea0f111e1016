"""The language-model head, tile by tile: log-probabilities without ever holding all logits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from alignzoo import cost
from alignzoo import functional as fn
from alignzoo_hf.forward import tables


@dataclass(frozen=True)
class Tiling:
    """How many logits go through the head at a time on a device. It changes speed and memory, and no result by more
    than rounding."""

    tile: int
    """Logits of one matrix product."""
    block: int
    """Logits that pass through the softmax at once."""
    kept: int
    """Probabilities that may be kept for the backward pass; beyond, the logits are computed again."""


CPU = Tiling(tile=8_388_000, block=131_072, kept=67_108_864)
"""A tile is just under 32 MB in float32, from where on the allocator maps fresh pages for every tensor; a block is half
a megabyte, which stays in the cache of a core; 256 MB are kept."""

TILE_ON_GPU = (1 << 24, 1 << 28)
"""Logits of one matrix product on a GPU at least and at most, 64 MB and 1 GB in float32. There are no smaller blocks:
launching a kernel for a few rows takes longer than running it."""

SHARE_OF_TILE = 64
"""A tile has this part of a GPU's memory, in float32; the softmax and its gradient hold up to four of them."""

SHARE_OF_KEPT = 8
"""The kept probabilities have this part of the memory that is free, in float32."""


def tiling(device: torch.device) -> Tiling:
    """What suits a device. On a GPU the tile is the card's, whatever else lies in its memory; only how much is kept
    depends on that, and what is not kept is computed again to the bit."""
    if device.type != "cuda":
        return CPU
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, and free
    return on_gpu(free, total)


def on_gpu(free: int, total: int) -> Tiling:
    """What suits a GPU of so many bytes."""
    least, most = TILE_ON_GPU
    tile = min(most, max(least, total // SHARE_OF_TILE // cost.FLOAT32))
    return Tiling(tile, tile, max(free, 0) // SHARE_OF_KEPT // cost.FLOAT32)


@dataclass(frozen=True)
class Head:
    """The map from hidden states to logits: a linear layer, and what some families add to it."""

    linear: nn.Module
    scale: float = 1.0
    """Logits are multiplied by it."""
    cap: float = 0.0
    """Then bent to lie within ± this, by tanh; 0: not."""

    def __call__(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.linear(hidden)
        out = out * self.scale if self.scale != 1 else out
        return torch.tanh(out / self.cap) * self.cap if self.cap else out

    def is_plain(self, temperature: float) -> bool:
        """Whether its gradient can be written down from probabilities: no adapter on it, and a soft cap low enough
        that no probability vanishes."""
        return type(self.linear) is nn.Linear and 2 * self.cap / temperature < 60


def head_logprobs(
    head: Head, states: Tensor, index: Tensor, targets: Tensor, temperature: float, *, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """log softmax(head(h)/T)_y and, when asked for, its entropy, of h = states[index]; (M,) each, in float32.

    States (P, H), index and targets (M,). Float64 stays float64.
    """
    if not len(index):
        nothing = states.new_zeros(0, dtype=wide(states.dtype))
        return nothing, nothing if with_entropy else None
    if not head.is_plain(temperature):
        return _checkpointed(head, states[index], targets, temperature, with_entropy)
    kind = states.device.type
    mixed = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if mixed else states.dtype
    graph = torch.is_grad_enabled() and (states.requires_grad or head.linear.weight.requires_grad)
    sizes = tiling(states.device)
    settings = Settings(head.scale / temperature, head.cap / temperature, with_entropy, graph, dtype, sizes)
    with torch.autocast(kind, enabled=False):
        weight, bias = head.linear.weight, head.linear.bias
        logprobs, entropy = _Logprobs.apply(states, index, weight, bias, targets, settings)
    return logprobs, entropy if with_entropy else None


def wide(dtype: torch.dtype) -> torch.dtype:
    """Float32, or float64 as it is."""
    return torch.promote_types(dtype, torch.float32)


# --- any head at all --------------------------------------------------------------------------------------------------


def _checkpointed(
    head: Head, states: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Through the head as it is, adapters and all; the logits are computed again in the backward pass."""

    def tile(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h)
        return fn.token_logprobs(logits / temperature if temperature != 1 else logits, y)

    with torch.no_grad():
        vocabulary = head(states[:1]).shape[-1]
    size = max(16, tiling(states.device).tile // vocabulary)
    tiles = list(zip(states.split(size), targets.split(size), strict=True))
    again = len(tiles) > 1 and torch.is_grad_enabled()
    answers = [checkpoint(tile, h, y, use_reentrant=False) if again else tile(h, y) for h, y in tiles]
    logprobs = torch.cat([answer[0] for answer in answers])
    return logprobs, torch.cat([answer[1] for answer in answers]) if with_entropy else None


# --- a linear head, with its gradient written down --------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How a linear head is applied."""

    scale: float
    """The factor of the logits, divided by the temperature."""
    cap: float
    """Divided by the temperature."""
    with_entropy: bool
    graph: bool
    """Whether a backward pass may follow."""
    dtype: torch.dtype
    """The data type of the matrix products."""
    sizes: Tiling


class _Logprobs(torch.autograd.Function):
    """Log-probabilities and entropies of tokens (M,) under a linear head.

    With z the logits, p = softmax(z) and H = -Σ p·log p: ∂log p_y/∂z = 1_y - p and ∂H/∂z_j = -p_j·(log p_j + H). The
    probabilities are kept in one buffer, which is used again and again, while they are few enough; then the head costs
    three matrix products, and four where the logits have to be computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, index: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Settings
    ) -> tuple[Tensor, Tensor]:
        h, w = states[index].to(how.dtype), weight.to(how.dtype)
        n, vocabulary = len(index), weight.shape[0]
        size = max(1, how.sizes.tile // vocabulary)
        keep = how.graph and n * vocabulary <= how.sizes.kept
        whole = _buffers.take((n if keep else min(n, size)) * vocabulary, h)
        buffer = whole.view(-1, vocabulary)
        logprobs, entropy, normaliser = (buffer.new_zeros(n) for _ in range(3))
        for rows in row_tiles(n, size):
            z = buffer[rows] if keep else buffer[: rows.stop - rows.start]
            write_logits(h[rows], w, bias, how, z)
            _softmax(z, targets[rows], logprobs[rows], entropy[rows], normaliser[rows], how, keep)
        ctx.set_materialize_grads(False)
        if how.graph:
            ctx.save_for_backward(states, index, weight, bias, targets, entropy, normaliser)
            ctx.how, ctx.kept = how, whole if keep else None
        if not keep:
            _buffers.give(whole)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprob: Tensor | None, by_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        states, index, weight, bias, targets, entropy, normaliser = ctx.saved_tensors
        how: Settings = ctx.how
        h, w = states[index].to(how.dtype), weight.to(how.dtype)
        n, vocabulary = len(index), weight.shape[0]
        kept, ctx.kept = ctx.kept, None  # it is written over: a second backward pass computes it again
        # A GPU's free memory decides what is kept, and must not decide how sums are rounded.
        at_once = kept is not None and kept.dtype == how.dtype and h.device.type != "cuda"
        size = n if at_once else max(1, how.sizes.tile // vocabulary)
        whole = kept if kept is not None else _buffers.take(min(n, size) * vocabulary, h)
        buffer = whole.view(-1, vocabulary)
        by_h, _, by_weight, *others = ctx.needs_input_grad
        total = tables.total_of(weight) if by_weight else None
        d_h, d_weight, d_bias = gradient_buffers((by_h, False, by_weight and total is None, *others), h, weight, bias)
        there, first = (d_weight, True) if total is None else total
        for rows in row_tiles(n, size):
            g = buffer[rows] if kept is not None else buffer[: rows.stop - rows.start]
            if kept is None:
                write_logits(h[rows], w, bias, how, g)
                _softmax(g, targets[rows], None, None, None, how, True)
            upstream = (None if each is None else each[rows] for each in (by_logprob, by_entropy))
            _to_gradient(g, targets[rows], *upstream, entropy[rows], normaliser[rows], how)
            if d_bias is not None:
                d_bias += g.sum(0)
            g = g.to(how.dtype)
            if d_h is not None:
                torch.mm(g, w, out=d_h[rows])
            if there is not None:
                add_product(there, g, h[rows], first=first and not rows.start)
        _buffers.give(whole)
        d_states = None if d_h is None else torch.zeros_like(states).index_add_(0, index, d_h.to(states.dtype))
        return d_states, None, d_weight, d_bias, None, None


def gradient_buffers(
    needed: tuple[bool, ...], h: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Room for the gradients by h, weight and bias that are asked for."""
    return (
        torch.empty_like(h) if needed[0] else None,
        torch.empty_like(weight) if needed[2] else None,
        torch.zeros_like(bias) if bias is not None and needed[3] else None,
    )


def add_product(total: Tensor, g: Tensor, h: Tensor, *, first: bool) -> None:
    """Add gᵀh, or write it where nothing is yet."""
    if first and total.dtype == g.dtype:
        torch.mm(g.T, h, out=total)
    elif first:
        total.copy_(g.T @ h)
    elif total.dtype == g.dtype:
        total.addmm_(g.T, h)
    else:
        total += g.T @ h


def row_tiles(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def write_logits(h: Tensor, w: Tensor, bias: Tensor | None, how: Settings, out: Tensor) -> None:
    """The logits over the temperature, written into `out`."""
    if out.dtype == h.dtype:
        torch.mm(h, w.T, out=out)
    else:
        out.copy_(h @ w.T)
    if bias is not None:
        out += bias
    if how.cap:
        out.mul_(how.scale / how.cap).tanh_().mul_(how.cap)
    elif how.scale != 1:
        out *= how.scale


def _softmax(
    z: Tensor,
    targets: Tensor,
    logprobs: Tensor | None,
    entropy: Tensor | None,
    normaliser: Tensor | None,
    how: Settings,
    normalise: bool,
) -> None:
    """Logits to probabilities, in place, a few rows at a time; the figures asked for are written on the way."""
    with_entropy = how.with_entropy and entropy is not None
    for rows in row_tiles(len(z), max(1, how.sizes.block // z.shape[1])):
        block = z[rows]
        largest = block.amax(1, keepdim=True)
        block -= largest
        chosen = block.gather(1, targets[rows, None]).squeeze(1)
        weights = block.exp() if with_entropy else block.exp_()
        total = weights.sum(1)
        if logprobs is not None:
            torch.sub(chosen, total.log(), out=logprobs[rows])
        if normaliser is not None:
            torch.add(largest.squeeze(1), total.log(), out=normaliser[rows])
        if entropy is not None and with_entropy:
            torch.sub(total.log(), torch.linalg.vecdot(weights, block) / total, out=entropy[rows])
        if normalise:
            torch.div(weights, total[:, None], out=block)


def _to_gradient(
    p: Tensor,
    targets: Tensor,
    by_logprob: Tensor | None,
    by_entropy: Tensor | None,
    entropy: Tensor,
    normaliser: Tensor,
    how: Settings,
) -> None:
    """Probabilities to the gradient by what the linear layer said, in place, a few rows at a time."""
    up = torch.zeros_like(entropy) if by_logprob is None else by_logprob
    if by_entropy is not None and not by_entropy.is_cuda and not by_entropy.any():
        by_entropy = None  # an entropy of weight 0
    for rows in row_tiles(len(p), max(1, how.sizes.block // p.shape[1])):
        block, coefficient = p[rows], up[rows, None]
        slope = 1 - ((block.log() + normaliser[rows, None]) / how.cap) ** 2 if how.cap else None
        flatter = None
        if by_entropy is not None:
            flatter = by_entropy[rows, None] * (torch.special.entr(block) - block * entropy[rows, None])
        block *= -coefficient
        block.scatter_add_(1, targets[rows, None], coefficient)
        if flatter is not None:
            block += flatter
        if slope is not None:
            block *= slope
        if how.scale != 1:
            block *= how.scale


class _Buffers(threading.local):
    """One buffer that outlives its use, so that the operating system need not map its pages anew for each batch. Each
    thread has its own.

    Only on the CPU: elsewhere torch keeps what is freed by itself.
    """

    def __init__(self) -> None:
        self.free: Tensor | None = None

    def take(self, size: int, like: Tensor) -> Tensor:
        """So many numbers of float32 (float64 for float64), of any value."""
        found, dtype = self.free, wide(like.dtype)
        if found is None or found.dtype != dtype or like.device.type != "cpu":
            return torch.empty(size, dtype=dtype, device=like.device)
        if found.untyped_storage().nbytes() < size * dtype.itemsize:
            return torch.empty(size, dtype=dtype)
        self.free = None
        return found.as_strided((size,), (1,))

    def give(self, buffer: Tensor) -> None:
        """Take back what is no longer used, unless a larger one is there."""
        free = 0 if self.free is None else self.free.untyped_storage().nbytes()
        if buffer.device.type == "cpu" and buffer.untyped_storage().nbytes() > free:
            self.free = buffer


_buffers = _Buffers()


def drop_buffer() -> None:
    """Let the buffer go, where other work than passes comes next; the next pass makes one anew."""
    _buffers.free = None
