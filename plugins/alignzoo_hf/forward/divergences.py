"""What the language-model head says of whole distributions: tile by tile, so that no (M, V) tensor is ever held.

With z the policy's logits, p = softmax(z) and q the role's probabilities, which have no gradient:

    H(p)       ∂/∂z = -p·(log p + H(p))
    Σp²        ∂/∂z = 2·p·(p - Σp²)
    KL(q ‖ p)  ∂/∂z = p - q
    KL(p ‖ q)  ∂/∂z = p·(log p - log q - KL(p ‖ q))
    JSD_β      ∂/∂z = (1-β)·p·(log p - log m - KL(p ‖ m)), m = β·q + (1-β)·p
    skew KL    ∂/∂z = p·Σs - s, s = (1-α)·p·q/m, m = α·q + (1-α)·p
    skew rev.  ∂/∂z = p·(h - Σ p·h), h = log p - log m - α·p/m, m = α·p + (1-α)·q
    top k      ∂/∂z = p - q on q's k most likely tokens, and p - p·q_rest/p_rest elsewhere

Values are `alignzoo.functional`'s; both logits are computed again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from alignzoo import functional as fn
from alignzoo.columns import Column
from alignzoo.errors import ModelError
from alignzoo_hf.forward.head import (
    Head,
    Settings,
    add_product,
    gradient_buffers,
    row_tiles,
    tiling,
    wide,
    write_logits,
)

HELD = 4
"""Tiles of this many times less logits than `head_logprobs` takes at once: so many of them lie side by side."""


@dataclass(frozen=True)
class Spoken:
    """A model's states at the positions that are asked about, and how they become a distribution."""

    head: Head
    states: Tensor
    """(P, H)."""
    index: Tensor
    """(M,): the line of `states` for each position."""
    temperature: float

    def logprobs(self, rows: slice) -> Tensor:
        """Log-probabilities of these positions, (m, V), in float32; float64 stays."""
        logits = self.head(self.states[self.index[rows]])
        logits = logits.to(wide(logits.dtype))
        return torch.log_softmax(logits / self.temperature if self.temperature != 1 else logits, -1)


def head_divergences(policy: Spoken, roles: Mapping[str, Spoken], columns: Sequence[Column]) -> dict[str, Tensor]:
    """These columns (M,), each `entropy`, `collision` or a comparison with one of the roles, with their gradient.

    Raises ModelError where a role speaks of another vocabulary.
    """
    dtype = wide(policy.states.dtype)
    if not len(policy.index):
        return {each.name: policy.states.new_zeros(0, dtype=dtype) for each in columns}
    sizes = [_vocabulary(each) for each in (policy, *roles.values())]
    for role, size in zip(roles, sizes[1:], strict=True):
        if size != sizes[0]:
            raise ModelError(
                f"the policy has {sizes[0]} logits and {role!r} has {size}: their distributions over the vocabulary "
                f"cannot be compared. Take a model with the same vocabulary, or compare sampled tokens: {role}_logprobs"
            )
    work = _Work(policy, roles, columns, max(1, tiling(policy.states.device).tile // HELD // sizes[0]))
    if type(policy.head.linear) is nn.Linear:
        found = _linear(work)
    else:
        found = torch.cat([work.checkpointed(rows) for rows in work.tiles()], 1)
    return dict(zip([each.name for each in columns], found, strict=True))


@torch.no_grad()
def _vocabulary(spoken: Spoken) -> int:
    linear = spoken.head.linear
    return linear.out_features if type(linear) is nn.Linear else int(spoken.head(spoken.states[:1]).shape[-1])


@dataclass(frozen=True)
class _Work:
    """What is compared."""

    policy: Spoken
    roles: Mapping[str, Spoken]
    columns: Sequence[Column]
    size: int
    """Positions at once."""

    def tiles(self) -> Iterator[slice]:
        return row_tiles(len(self.policy.index), self.size)

    @torch.no_grad()
    def said(self, rows: slice) -> dict[str, Tensor]:
        """The roles' log-probabilities."""
        return {name: role.logprobs(rows) for name, role in self.roles.items()}

    def values(self, logprobs: Tensor, said: Mapping[str, Tensor]) -> Tensor:
        """(columns, m)."""
        return torch.stack([_value(each, logprobs, said) for each in self.columns])

    def checkpointed(self, rows: slice) -> Tensor:
        """Through a head of any kind, adapters and all, by automatic differentiation."""

        def tile(states: Tensor) -> Tensor:
            here = replace(self.policy, states=states)
            return self.values(here.logprobs(rows), self.said(rows))

        if not torch.is_grad_enabled():
            return tile(self.policy.states)
        found: Tensor = checkpoint(tile, self.policy.states, use_reentrant=False)
        return found


def _value(column: Column, logprobs: Tensor, said: Mapping[str, Tensor]) -> Tensor:
    if column.answer.name == "entropy":
        return -(logprobs.exp() * logprobs).sum(1)
    if not column.answer.compares:
        return fn.collision(logprobs)
    return fn.compared(column.answer.name, logprobs, said[column.role], column.number)


def _slope(column: Column, logprobs: Tensor, said: Mapping[str, Tensor], value: Tensor) -> Tensor:
    """The gradient of a column by the logits over the temperature, (m, V); see the module's table."""
    p, name, number = logprobs.exp(), column.answer.name, column.number
    if name == "entropy":
        return p.mul_(logprobs + value[:, None]).neg_()
    if name == "collision":
        return 2 * p * (p - value[:, None])
    other = said[column.role]
    if name == "kl" or (name in ("jsd", "skew_kl") and number == 0):
        return p.sub_(other.exp())
    if name == "reverse_kl" or (name, number) in (("jsd", 1), ("skew_reverse_kl", 0)):
        return p.mul_(logprobs - other - value[:, None])
    if name == "jsd":
        ratio = logprobs - torch.logaddexp(other + math.log(number), logprobs + math.log1p(-number))
        return p.mul_(1 - number).mul_(ratio - (logprobs.exp() * ratio).sum(1, keepdim=True))
    if name in ("skew_kl", "skew_reverse_kl"):
        return _skew_slope(p, logprobs, other, number, reverse=name == "skew_reverse_kl")
    if name != "top_kl":
        raise ModelError(f"policy 'hf' cannot answer {column}")
    if number >= p.shape[1]:
        return p.sub_(other.exp())
    top = other.topk(int(number), 1).indices
    rest, others = (torch.logsumexp(each.scatter(1, top, -torch.inf), 1, keepdim=True) for each in (other, logprobs))
    slope = p - (logprobs + (rest - others)).exp_()
    return slope.scatter_(1, top, p.gather(1, top) - other.gather(1, top).exp())


def _skew_slope(p: Tensor, logprobs: Tensor, other: Tensor, alpha: float, *, reverse: bool) -> Tensor:
    """The gradient of a skew KL by the logits over the temperature, (m, V); α is above 0."""
    here, there = (math.log(alpha), math.log1p(-alpha)) if reverse else (math.log1p(-alpha), math.log(alpha))
    mixture = torch.logaddexp(logprobs + here, other + there)
    if reverse:
        slope = logprobs - mixture - (logprobs + here - mixture).exp()
        return p * (slope - (p * slope).sum(1, keepdim=True))
    share = (logprobs + here + other - mixture).exp()
    return p * share.sum(1, keepdim=True) - share


# --- a linear head, with its gradient written down --------------------------------------------------------------------


def _linear(work: _Work) -> Tensor:
    head, states, temperature = work.policy.head, work.policy.states, work.policy.temperature
    kind = states.device.type
    mixed = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if mixed else states.dtype
    graph = torch.is_grad_enabled() and (states.requires_grad or head.linear.weight.requires_grad)
    how = Settings(head.scale / temperature, head.cap / temperature, False, graph, dtype, tiling(states.device))
    bare = replace(work, policy=replace(work.policy, states=states.detach()))  # nothing with a graph is held twice
    cast = torch.autocast(kind, dtype, enabled=mixed)
    with torch.autocast(kind, enabled=False):
        found: Tensor = _Divergences.apply(states, head.linear.weight, head.linear.bias, bare, how, cast)
    return found


class _Divergences(torch.autograd.Function):
    """The columns (C, M) of `_Work` under a linear head."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, work: _Work, how: Settings, mixed: Any
    ) -> Tensor:
        h, w = states[work.policy.index].to(how.dtype), weight.to(how.dtype)
        values = states.new_empty(len(work.columns), len(h), dtype=wide(states.dtype))
        for rows in work.tiles():
            z = _logits(h[rows], w, bias, how)
            with mixed:
                said = work.said(rows)
            values[:, rows] = work.values(torch.log_softmax(z, -1), said)
        if how.graph:
            ctx.save_for_backward(states, weight, bias, values)
            ctx.work, ctx.how, ctx.mixed = work, how, mixed
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, values = ctx.saved_tensors
        work, how = ctx.work, ctx.how
        index = work.policy.index
        h, w = states[index].to(how.dtype), weight.to(how.dtype)
        needed = (ctx.needs_input_grad[0], False, *ctx.needs_input_grad[1:3])
        d_h, d_weight, d_bias = gradient_buffers(needed, h, weight, bias)
        for rows in work.tiles():
            z = _logits(h[rows], w, bias, how)
            logprobs = torch.log_softmax(z, -1)
            with ctx.mixed:
                said = work.said(rows)
            g = torch.zeros_like(logprobs)
            for column, up, value in zip(work.columns, upstream[:, rows], values[:, rows], strict=True):
                g.addcmul_(_slope(column, logprobs, said, value), up[:, None])
            g *= how.scale * (1 - (z / how.cap) ** 2) if how.cap else how.scale
            if d_bias is not None:
                d_bias += g.sum(0)
            g = g.to(how.dtype)
            if d_h is not None:
                torch.mm(g, w, out=d_h[rows])
            if d_weight is not None:
                add_product(d_weight, g, h[rows], first=not rows.start)
        d_states = None if d_h is None else torch.zeros_like(states).index_add_(0, index, d_h.to(states.dtype))
        return d_states, d_weight, d_bias, None, None, None


def _logits(h: Tensor, w: Tensor, bias: Tensor | None, how: Settings) -> Tensor:
    out = torch.empty(len(h), len(w), dtype=wide(how.dtype), device=h.device)
    write_logits(h, w, bias, how, out)
    return out
