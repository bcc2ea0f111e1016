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

NAME = "alignzoo_packed"
"""What transformers calls our attention function."""

SHARE_FROM = 4
"""Tokens that a group's rows must have in common for their beginning to be shared: fewer cost more than they save."""

CHANGES_SCORES = ("position_bias", "s_aux", "alibi")
"""Arguments of attention functions that change what they answer, in ways that this one does not know."""


class CannotPackError(Exception):
    """A model whose attention is not told to us in a form that we know."""


@dataclass(frozen=True)
class Cluster:
    """Rows that begin alike: the first one lies whole in the line, after it the others without their beginning."""

    shared: int
    """Tokens in common."""
    lengths: tuple[int, ...]
    """Tokens in the line of the first row, and of each other row."""


@dataclass(frozen=True)
class Packing:
    """A batch's tokens in one line, P long."""

    tokens: Tensor
    """(1, P)."""
    positions: Tensor
    """(1, P): each token's place in its own row."""
    place: Tensor
    """(N, T): where in the line the token of a row lies; 0 where the row has none."""
    clusters: tuple[Cluster, ...]
    windows: set[int | None] = field(default_factory=set)
    """The sliding windows that the layers have asked for; None stands for full attention."""
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    """Attention masks by queries, keys and window, made once for all layers."""

    @property
    def lengths(self) -> list[int]:
        """The line, piece by piece."""
        return [length for cluster in self.clusters for length in cluster.lengths]

    def mask(self, queries: int, keys: int, window: int | None, like: Tensor) -> Tensor:
        """What the last `queries` of `keys` tokens may look at: 0 or -inf, in the dtype that attention adds up in."""
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
        keys, queries, counts, start = [], [], [], 0
        for cluster in self.clusters:
            shared = torch.arange(start, start + cluster.shared)
            for i, length in enumerate(cluster.lengths):
                own = torch.arange(start, start + length)
                keys.append(torch.cat([shared, own]) if i else own)
                queries.append(length)
                counts.append(len(keys[-1]))
                start += length
        device = self.tokens.device
        bounds = [
            torch.tensor([0, *each], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
            for each in (queries, counts)
        ]
        return torch.cat(keys).to(device), bounds[0], bounds[1], max(queries), max(counts)


def pack(tokens: Tensor, used: Tensor, group: Tensor) -> Packing:
    """The used tokens (N, T) of right-padded rows, in one line. Rows of one group share what they begin with."""
    lengths = used.sum(1)
    alike = (tokens[1:] == tokens[:-1]) & used[1:] & used[:-1] & (group[1:] == group[:-1])[:, None]
    common = alike.long().cumprod(1).sum(1)  # (N-1,), of each row with the one before
    count, rows = lengths.tolist(), torch.unique_consecutive(group, return_counts=True)[1].tolist()
    followers, clusters, shares, start = common.tolist(), [], [], 0
    for n in rows:
        shared = min(followers[start : start + n - 1], default=0)
        shared = shared if shared >= SHARE_FROM else 0
        lengths_of = [count[start], *(length - shared for length in count[start + 1 : start + n])]
        clusters.append(Cluster(shared, tuple(lengths_of)))
        shares += [0] + [shared] * (n - 1)
        start += n
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    shared_by = torch.tensor(shares, device=tokens.device)[:, None]
    written = used & (positions >= shared_by)  # each of them has a place of its own in the line
    place = (written.flatten().cumsum(0) - 1).view(tokens.shape)
    first = torch.repeat_interleave(torch.tensor([sum(rows[:i]) for i in range(len(rows))]), torch.tensor(rows)).to(
        tokens.device
    )
    place = torch.where(written, place, place[first]) * used
    return Packing(tokens[written][None], positions[written][None], place, tuple(clusters))


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda and softcap is None and query.dtype in (torch.float16, torch.bfloat16) and _varlen is not None:
        return _on_cuda(packing, query, key, value, scale, sliding_window), None
    kernel = _kernel(query, key, scale, softcap)
    lengths = packing.lengths
    pieces = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    answers = []
    for cluster in packing.clusters:
        first_key = first_value = key
        for i, length in enumerate(cluster.lengths):
            q, k, v = next(pieces)
            if not i:
                first_key, first_value = k[:, :, : cluster.shared], v[:, :, : cluster.shared]
            elif cluster.shared:
                k, v = torch.cat([first_key, k], 2), torch.cat([first_value, v], 2)
            if not length:
                continue
            keys = k.shape[2]
            whole = keys == length and (sliding_window is None or keys <= sliding_window)
            mask = None if whole else packing.mask(length, keys, sliding_window, q)
            answers.append(kernel(q, k, v, mask).transpose(1, 2))
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
        return torch.softmax((scores + hidden).to(_wide(q.dtype)), -1).to(q.dtype) @ v

    return capped if softcap is not None else plain


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


try:
    from torch.nn.attention.varlen import varlen_attn as _varlen
except ImportError:  # before torch 2.10
    _varlen = None


def _on_cuda(packing: Packing, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """All pieces in one flash kernel; the keys of a shared beginning are read again for each row."""
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
