"""The engine's cache: keys and values of every slot, preallocated, and the attention that reads them.

A forward pass of the stock transformers model is one of two things: a `Pack`, several prompts one behind the other
without padding, or a `Step`, one token for each slot. `SlotCache.update` and the registered attention function ask the
one at hand what to do, so that the model's own code stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache

NAME = "alignzoo_slots"
"""The attention function's name in transformers' registry."""

COLUMNS = 64
"""Columns of the cache that are made ready at a time."""


class Pass(Protocol):
    """What one forward pass does with new keys and values, and with queries."""

    def update(self, cache: SlotCache, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]: ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Attention) -> Tensor: ...


class Attention:
    """One layer's attention: softmax(scale·QKᵀ, capped, within a window)·V."""

    def __init__(self, scaling: float | None, window: int | None, softcap: float | None) -> None:
        self.scaling, self.window, self.softcap = scaling, window, softcap

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, causal: bool) -> Tensor:
        """Attention of queries (N, H, T, D) over keys and values of as many heads; `bias` is added to the scores."""
        if not self.softcap:
            return scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=self.scaling)
        scale = query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / self.softcap)) * self.softcap
        if causal:
            bias = _barred(torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1), scores.dtype)
        scores = scores if bias is None else scores + bias
        return torch.softmax(scores.float(), -1).to(value.dtype) @ value


def _barred(where: Tensor, dtype: torch.dtype) -> Tensor:
    """0, and -inf where True."""
    return torch.zeros(where.shape, dtype=dtype, device=where.device).masked_fill_(where, -torch.inf)


_now: ContextVar[Pass] = ContextVar("now")
_asked: ContextVar[set[int | None]] = ContextVar("asked")


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if (seen := _asked.get(None)) is not None:
        seen.add(sliding_window)
    return _now.get().attend(query, key, value, Attention(scaling, sliding_window, softcap)), None


AttentionInterface.register(NAME, _attend)


@contextmanager
def attention(model: Any) -> Iterator[None]:
    """Inside, the model attends through the slots."""
    former = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(former)


@contextmanager
def during(what: Pass) -> Iterator[None]:
    """Inside, the forward pass is this one."""
    token = _now.set(what)
    try:
        yield
    finally:
        _now.reset(token)


@contextmanager
def windows_asked() -> Iterator[set[int | None]]:
    """Inside, the sliding windows that layers ask for are collected; None stands for full attention."""
    seen: set[int | None] = set()
    token = _asked.set(seen)
    try:
        yield seen
    finally:
        _asked.reset(token)


class SlotCache(Cache):
    """Keys and values, (slots, heads, capacity, size) for each layer, allocated when the layer first writes.

    On a CPU all of it at once, as what is not touched takes no memory; with `page` as much as is needed, in pages of so
    many columns and by half at least, as elsewhere what is allocated is taken.
    """

    def __init__(self, slots: int, limit: int, page: int = 0) -> None:
        super().__init__(layers=[])
        self.slots, self.limit, self.page = slots, limit, page
        self.capacity = 0 if page else limit
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.clean = 0
        """Columns that hold numbers: what the allocator left there may be NaN, which a weight of 0 would not silence.
        The others are not touched."""

    def reach(self, width: int) -> None:
        """Make the first `width` columns ready to be read."""
        if width > self.capacity:
            self._grow(width)
        if width > self.clean:
            former, self.clean = self.clean, min(self.capacity, width + COLUMNS)
            for slots in (*self.keys.values(), *self.values.values()):
                slots[:, :, former : self.clean].zero_()

    def _grow(self, width: int) -> None:
        """Room for `width` columns, one layer after the other, so that only one is there twice."""
        wanted = max(width, self.capacity + self.capacity // 2)
        self.capacity = min(self.limit, -(-wanted // self.page) * self.page)
        for held in (self.keys, self.values):
            for layer, former in held.items():
                held[layer] = former.new_empty((*former.shape[:2], self.capacity, former.shape[3]))
                held[layer][:, :, : self.clean] = former[:, :, : self.clean]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        return _now.get().update(self, key_states, value_states, layer_idx)

    def place(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """This layer's keys and values, allocated like the given ones if there are none yet."""
        if layer not in self.keys:
            for held, new in ((self.keys, key), (self.values, value)):
                shape = (self.slots, new.shape[-2], self.capacity, new.shape[-1])
                held[layer] = torch.empty(shape, dtype=new.dtype, device=new.device)
                held[layer][:, :, : self.clean].zero_()
        return self.keys[layer], self.values[layer]

    def seat(self, pack: Pack, prompts: Sequence[int], first: int) -> None:
        """Copy packed prompts into the slots from `first` on."""
        slots = [slot for slot, p in enumerate(prompts, first) for _ in range(pack.lengths[p])]
        columns = [column for p in prompts for column in range(pack.lengths[p])]
        sources = [pack.starts[p] + column for p in prompts for column in range(pack.lengths[p])]
        self.reach(max(pack.lengths[p] for p in prompts))
        to, at, of = torch.tensor([slots, columns, sources], device=pack.device)
        for layer, packed in pack.held.items():
            for slot, new in zip(self.place(layer, *packed), packed, strict=True):
                slot.transpose(1, 2)[to, at] = new[of]

    def move(self, sources: Tensor, targets: Tensor, width: int) -> None:
        """Copy the first `width` columns of slots into others."""
        for held in (self.keys, self.values):
            for slot in held.values():
                slot[targets, :, :width] = slot[sources, :, :width]


def cast(states: Tensor) -> Tensor:
    """As the attention will read them: under autocast in its precision."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


class Pack:
    """Prompts one behind the other, (1, ΣT): every token is computed once, and none for padding.

    Only the attention itself sees them as rows (P, T); a row's padding comes after its tokens, where causal attention
    does not look.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.device = device
        self.lengths = [len(prompt) for prompt in prompts]
        self.starts = [sum(self.lengths[:i]) for i in range(len(prompts))]
        self.tokens = torch.tensor([[token for prompt in prompts for token in prompt]], device=device)
        self.positions = torch.tensor([[t for length in self.lengths for t in range(length)]], device=device)
        self.last = torch.tensor([s + length - 1 for s, length in zip(self.starts, self.lengths, strict=True)])
        self.last = self.last.to(device)
        self.widest = max(self.lengths)
        starts, lengths = torch.tensor([self.starts, self.lengths], device=device)[:, :, None]
        columns = torch.arange(self.widest, device=device)
        self.real = columns < lengths  # (P, T)
        self.index = starts + torch.where(self.real, columns, 0)
        self.held: dict[int, tuple[Tensor, Tensor]] = {}
        """Keys and values of each layer, (ΣT, heads, size)."""

    def update(self, cache: SlotCache, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        key, value = cast(key), cast(value)
        self.held[layer] = (key[0].transpose(0, 1), value[0].transpose(0, 1))
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Attention) -> Tensor:
        rows = [cast(states)[0].transpose(0, 1)[self.index].transpose(1, 2) for states in (query, key, value)]
        groups = query.shape[1] // key.shape[1]
        query, key, value = rows[0], *(states.repeat_interleave(groups, 1) for states in rows[1:])
        bias = None
        if how.window and how.window < self.widest:
            distance = self.positions.new_tensor(range(self.widest))
            distance = distance[:, None] - distance
            bias = _barred((distance < 0) | (distance >= how.window), query.dtype)
        out = how(query, key, value, bias, causal=bias is None)  # (P, H, T, D)
        return out.transpose(1, 2)[self.real][None]


class Step:
    """One new token in each of the first `n` slots, at its position; columns up to `width` are read."""

    def __init__(self, positions: Tensor, width: int) -> None:
        self.positions, self.n, self.width = positions, len(positions), width
        self._biases: dict[int | None, Tensor] = {}
        self._places: dict[int, Tensor] = {}

    def update(self, cache: SlotCache, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        out = []
        for slots, new in zip(cache.place(layer, key, value), (key, value), strict=True):
            heads, size = new.shape[1], new.shape[-1]
            flat = slots.view(-1, size)
            flat.index_copy_(0, self._place(heads, cache.capacity), new.reshape(-1, size).to(slots.dtype))
            out.append(slots[: self.n, :, : self.width])
        return out[0], out[1]

    def _place(self, heads: int, capacity: int) -> Tensor:
        """Where the new tokens go in a layer's slots, seen as rows of one head's states."""
        if heads not in self._places:
            lines = torch.arange(self.n * heads, device=self.positions.device).view(self.n, heads)
            self._places[heads] = (lines * capacity + self.positions[:, None]).flatten()
        return self._places[heads]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Attention) -> Tensor:
        n, heads, _, size = query.shape
        grouped = query.reshape(n, key.shape[1], -1, size).to(key.dtype)  # the queries that share a key-value head
        out = how(grouped, key, value, self._bias(how.window, key.dtype), causal=False)
        return out.reshape(n, 1, heads, value.shape[-1])

    def _bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        window = window if window and window < self.width else None
        if window not in self._biases:
            distance = self.positions[:, None] - torch.arange(self.width, device=self.positions.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self._biases[window] = _barred(hidden, dtype)[:, None, None]
        return self._biases[window]
