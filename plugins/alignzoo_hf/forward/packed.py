"""Rows without padding: all tokens of a batch in one line, what rows of a group begin with written once.

The stock transformers forward runs over that line with its `position_ids`, and an attention function of ours lets each
row look at its own tokens only. A causal model gives a shared beginning the same states in every row, so that computing
it once is exact.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from alignzoo_hf.decode.slots import cast
from alignzoo_hf.forward.head import wide
from alignzoo_hf.forward.segments import Attended, Masked, Piece, is_flash

NAME = "alignzoo_packed"
"""What transformers calls our attention function."""

SHARE_FROM = 4
"""Tokens that a group's rows must have in common for their beginning to be shared: fewer cost more than they save."""

CHANGES_SCORES = ("position_bias", "s_aux", "alibi")
"""Arguments of attention functions that change what they answer, in ways that this one does not know."""


class CannotPackError(Exception):
    """A model whose attention is not told to us in a form that we know."""


@dataclass(frozen=True)
class Packing:
    """A batch's tokens in one line, P long."""

    tokens: Tensor
    """(1, P)."""
    positions: Tensor
    """(1, P): each token's place in its own row."""
    place: Tensor
    """(N, T): where in the line the token of a row lies; 0 where the row has none."""
    pieces: tuple[Piece, ...]
    """The rows that have tokens of their own."""
    windows: set[int | None] = field(default_factory=set)
    """The sliding windows that the layers have asked for; None stands for full attention."""
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    """Attention masks by queries, keys and window, made once for all layers."""

    def masked(self, window: int | None, like: Tensor) -> list[Masked]:
        """The pieces, each with its mask in the dtype that attention adds up in."""
        found: list[Masked] = []
        for piece in self.pieces:
            causal = not piece.shared and (window is None or piece.sees <= window)
            found.append((piece, None if causal else self.mask(piece.length, piece.sees, window, like)))
        return found

    def mask(self, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
        """What the last `queries` of `keys` tokens may look at: 0 or -inf."""
        known = (queries, keys, window)
        if known not in self.masks:
            here = torch.arange(keys - queries, keys, device=like.device)[:, None]
            there = torch.arange(keys, device=like.device)
            hidden = (there > here) if window is None else (there > here) | (there <= here - window)
            self.masks[known] = torch.zeros(queries, keys, device=like.device).masked_fill(hidden, -torch.inf)
        return self.masks[known].to(like.dtype)

    @cached_property
    def lines(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """For kernels of variable length: which key of the line each row looks at, row after row; the bounds of
        queries and of keys; the longest of each."""
        line, device = torch.arange(self.tokens.shape[1]), self.tokens.device
        keys = [part for piece in self.pieces for part in (line[piece.borrowed], line[piece.own])]
        queries, counts = [piece.length for piece in self.pieces], [piece.sees for piece in self.pieces]
        bounds = [
            torch.tensor([0, *each], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
            for each in (queries, counts)
        ]
        return torch.cat(keys).to(device), bounds[0], bounds[1], max(queries), max(counts)


def pack(tokens: Tensor, used: Tensor, prompt: Tensor) -> Packing:
    """The used tokens (N, T) of right-padded rows, in one line. Rows of one prompt share what they begin with."""
    lengths = used.sum(1)
    alike = (tokens[1:] == tokens[:-1]) & used[1:] & used[:-1] & (prompt[1:] == prompt[:-1])[:, None]
    common = alike.long().cumprod(1).sum(1)  # (N-1,), of each row with the one before
    count, rows = lengths.tolist(), torch.unique_consecutive(prompt, return_counts=True)[1].tolist()
    followers, pieces, start = common.tolist(), [], 0
    for n in rows:
        shared = min(followers[start : start + n - 1], default=0)
        beginning = at = pieces[-1].stop if pieces else 0
        for row in range(start, start + n):
            less = shared if row > start and shared >= SHARE_FROM else 0
            pieces.append(Piece(at, at + count[row] - less, beginning, less))
            at = pieces[-1].stop
        start += n
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    shared_by = torch.tensor([piece.shared for piece in pieces], device=tokens.device)[:, None]
    written = used & (positions >= shared_by)  # each of them has a place of its own in the line
    place = (written.flatten().cumsum(0) - 1).view(tokens.shape)
    first = torch.repeat_interleave(torch.tensor([sum(rows[:i]) for i in range(len(rows))]), torch.tensor(rows)).to(
        tokens.device
    )
    place = torch.where(written, place, place[first]) * used
    return Packing(
        tokens[written][None], positions[written][None], place, tuple(piece for piece in pieces if piece.length)
    )


_current: ContextVar[Packing | None] = ContextVar("packing", default=None)


@contextlib.contextmanager
def attending(config: Any, packing: Packing) -> Iterator[None]:
    """Inside, a model of this config attends within the rows of a packing."""
    former, token = config._attn_implementation, _current.set(packing)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = former
        _current.reset(token)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: queries (1, H, P, D), keys and values (1, H_kv, P, D); the answer is (1, P, H, D)."""
    packing = _current.get()
    if packing is None:
        raise CannotPackError(f"the attention function {NAME!r} was called outside a packed forward")
    unknown = [name for name in CHANGES_SCORES if more.get(name) is not None]
    if unknown or query.shape[0] != 1 or query.shape[2] != key.shape[2] or more.get("is_causal") is False:
        raise CannotPackError(f"its attention uses {', '.join(unknown) or 'more than causal self-attention'}")
    packing.windows.add(sliding_window)
    # Under autocast rotary embeddings lift queries and keys to the embedding's float32, which no flash kernel takes.
    query, key, value = cast(query), cast(key), cast(value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is None and _is_varlen(query, value):
        return _in_one_kernel(packing, query, key, value, scale, sliding_window), None
    pieces = packing.masked(sliding_window, query)
    if softcap is None and is_flash(query, key, value):
        out: Tensor = Attended.apply(query, key, value, pieces, scale)
        return out, None
    kernel = _kernel(query, key, scale, softcap)
    queries = query.split([piece.length for piece, _ in pieces], 2)
    keys, values = (each[:, :, packing.lines[0]].split([piece.sees for piece, _ in pieces], 2) for each in (key, value))
    masks = [mask for _, mask in pieces]
    answers = [kernel(*each).transpose(1, 2) for each in zip(queries, keys, values, masks, strict=True)]
    return torch.cat(answers, 1), None


def _kernel(query: Tensor, key: Tensor, scale: float, softcap: float | None) -> Callable[..., Tensor]:
    """Attention of one piece: causal without a mask, else as the mask says."""
    grouped = query.shape[1] != key.shape[1]

    def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return sdpa(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)

    def capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        times = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        scores = torch.tanh(q @ k.transpose(2, 3) * (scale / softcap)) * softcap
        hidden = torch.full(scores.shape[2:], -torch.inf, device=q.device).triu(1) if mask is None else mask
        # Reduced in float32 at least, as transformers' own eager attention does.
        return torch.softmax((scores + hidden).to(wide(q.dtype)), -1).to(q.dtype) @ v

    return capped if softcap is not None else plain


try:
    from torch.nn.attention.varlen import varlen_attn as _varlen
except ImportError:  # before torch 2.10
    _varlen = None
if _varlen is not None and not {"scale", "window_size"} <= inspect.signature(_varlen).parameters.keys():
    _varlen = None  # torch 2.10: causal where queries are fewer than keys, and windows, are said from 2.11 on

WIDEST = 256
"""The largest size of a head that flash attention takes."""


def _is_varlen(query: Tensor, value: Tensor) -> bool:
    """Whether torch's flash kernel for rows of different lengths takes these heads: on a GPU from Ampere on."""
    fits = query.dtype in (torch.float16, torch.bfloat16) and value.shape[-1] == query.shape[-1] <= WIDEST
    return fits and query.is_cuda and _varlen is not None and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _in_one_kernel(
    packing: Packing, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None
) -> Tensor:
    """All pieces in one flash kernel; the keys of a shared beginning are read again for each row.

    A piece's queries are the last of its keys, which is where the kernel puts the diagonal of a causal mask.
    """
    lines, query_bounds, key_bounds, longest_query, longest_key = packing.lines
    times = query.shape[1] // key.shape[1]
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # (P, H, D)
    k, v = k[lines], v[lines]
    options: dict[str, Any] = {"scale": scale, "window_size": (-1 if window is None else window - 1, 0)}
    if times > 1 and "enable_gqa" in inspect.signature(_varlen).parameters:
        options["enable_gqa"] = True
    elif times > 1:
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    out: Tensor = _varlen(q.contiguous(), k, v, query_bounds, key_bounds, longest_query, longest_key, **options)
    return out[None]


AttentionInterface.register(NAME, attention)
