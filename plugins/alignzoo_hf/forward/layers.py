"""RMS norms and gated feed-forwards with their gradients written down: fewer passes over memory, fewer tensors kept.

The modules stay transformers' own; only their `forward` is exchanged, on a CPU, and only after it was seen to say the
same.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from alignzoo import cost
from alignzoo.cost import ModelShape
from alignzoo_hf.forward import tables

EXACT = (torch.float32, torch.float64)
"""Precisions in which a norm's formula is computed as it stands; in others its own forward says where it rounds."""

FORMULA = "_alignzoo_formula"
"""Where a norm keeps its ε, and what its family adds to the weight."""


def exchange(model: nn.Module) -> None:
    """Give the norms, feed-forwards and embeddings of a model in a CPU's memory these forwards, where they are what
    they had."""
    for module in model.modules():
        if "forward" in vars(module):
            continue  # somebody has exchanged it before: a hook that loads weights, or we ourselves
        if type(module).__name__.endswith("RMSNorm") and (found := _formula(module)) is not None:
            setattr(module, FORMULA, found)
            module.forward = functools.partial(norm, module)  # copies of the module get their own
        elif _is_gated(module):
            module.forward = functools.partial(feed_forward, module)
        elif tables.is_plain(module):
            module.forward = functools.partial(tables.embed, module)


def kept(config: Any, shape: ModelShape) -> float:
    """The share of a stock forward pass's activations that these keep: of a norm two tensors instead of three, and of a
    gated feed-forward two instead of four, where a family has them in this form."""
    if not (shape.gated and hasattr(config, "rms_norm_eps") and getattr(config, "hidden_act", "") == "silu"):
        return 1.0
    spared = 2 * (shape.hidden + shape.intermediate) * shape.layers * cost.FLOAT32
    return 1 - spared / cost.activation_bytes(shape, 1)


# --- RMS norms --------------------------------------------------------------------------------------------------------


def norm(self: Any, x: Tensor) -> Tensor:
    """An RMS norm's forward."""
    weight, (epsilon, shift) = self.weight, getattr(self, FORMULA)
    if x.dtype not in EXACT or x.dtype != weight.dtype or x.device.type != "cpu":
        own: Tensor = type(self).forward(self, x)
        return own
    weight = weight + shift if shift else weight
    if not torch.is_grad_enabled():
        return normed(x, weight, epsilon)[0]
    y: Tensor = RMSNorm.apply(x, weight, epsilon)
    return y


def normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """y, and r (..., 1). The same to the bit with and without a gradient: ratios must start at 1."""
    r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * r).mul_(weight), r


class RMSNorm(torch.autograd.Function):
    """y = w·x̂ with x̂ = x·r, r = 1/√(mean x² + ε), over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    ∂x = r·(g - x̂·mean(g·x̂)) with g = w·∂y. The kernel of LayerNorm's gradient, told that the mean is 0 and the scale r,
    answers that less r·mean(g), which is added again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, r = normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, r = ctx.saved_tensors
        by_x, by_weight, _ = ctx.needs_input_grad
        size, wanted = [x.shape[-1]], [by_x, by_weight, False]
        d_x, d_weight, _ = torch.ops.aten.native_layer_norm_backward(
            upstream, x, size, torch.zeros_like(r), r, weight, None, wanted
        )
        if by_x:
            d_x += (upstream @ weight).unsqueeze(-1) * (r / x.shape[-1])
        return d_x, d_weight, None


@torch.no_grad()
def _formula(module: Any) -> tuple[float, float] | None:
    """A norm's ε, and 1 where its weight is what it adds to 1, as Gemma's; None for one that does something else."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.ndim != 1 or weight.device.type != "cpu" or epsilon is None:
        return None
    x = torch.linspace(-1.0, 2.0, 3 * len(weight)).view(3, -1) * torch.tensor([[1e-3], [1.0], [30.0]])
    own = type(module).forward(module, x.to(weight.dtype)).float()
    near = 1e-5 if weight.dtype in EXACT else 1e-2
    for shift in (0.0, 1.0):
        y = normed(x.to(weight.dtype).float(), weight.float() + shift, float(epsilon))[0]
        if torch.allclose(y, own, rtol=near, atol=near):
            return float(epsilon), shift
    return None


# --- gated feed-forwards ----------------------------------------------------------------------------------------------


def feed_forward(self: Any, x: Tensor) -> Tensor:
    """A gated feed-forward's forward."""
    linears = (self.gate_proj, self.up_proj, self.down_proj)
    if torch.is_grad_enabled() and all(map(_is_bare, linears)) and not torch.is_autocast_enabled(x.device.type):
        out: Tensor = Gated.apply(x, *(linear.weight for linear in linears))
        return out
    gate, up = self.gate_proj(x), self.up_proj(x)
    inner = silu(gate) * up if torch.is_grad_enabled() else silu(gate, inplace=True).mul_(up)
    out = self.down_proj(inner)
    return out


def _is_bare(linear: nn.Module) -> bool:
    """Whether a linear layer in a CPU's memory is its weight and no more: no bias, adapter, hook or other forward."""
    more = vars(linear).get("forward") or linear._forward_hooks or linear._forward_pre_hooks
    return type(linear) is nn.Linear and linear.bias is None and linear.weight.device.type == "cpu" and not more


class Gated(torch.autograd.Function):
    """W_down·(silu(g) ⊙ u) with g = W_gate·x, u = W_up·x and silu(z) = z·σ(z) (Shazeer 2020, arXiv:2002.05202, eq. 6).

    Kept are x, g and u; the product of the two branches is computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
        gate, up = x @ w_gate.T, x @ w_up.T
        ctx.save_for_backward(x, w_gate, w_up, w_down, gate, up)
        return silu(gate).mul_(up) @ w_down.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        given, w_gate, w_up, w_down, *branches = ctx.saved_tensors
        by_x, by_gate, by_up, by_down = ctx.needs_input_grad
        x, upstream, gate, up = (each.reshape(-1, each.shape[-1]) for each in (given, upstream, *branches))
        d_inner = upstream @ w_down
        opened = silu(gate)
        d_down = upstream.T @ (opened * up) if by_down else None
        d_up = opened.mul_(d_inner)
        d_gate = d_inner.mul_(up)
        torch.ops.aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        d_x = (d_gate @ w_gate).addmm_(d_up, w_up).view(given.shape) if by_x else None
        return d_x, d_gate.T @ x if by_gate else None, d_up.T @ x if by_up else None, d_down


@torch.no_grad()
def _is_gated(module: Any) -> bool:
    """Whether a module is down(silu(gate(x))·up(x))."""
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, nn.Linear) and part.weight.device.type == "cpu" for part in parts):
        return False
    weight = module.gate_proj.weight
    if not weight.is_floating_point():
        return False  # of few bits, which its own layer unpacks
    x = torch.linspace(-3.0, 3.0, 2 * weight.shape[1], dtype=weight.dtype).view(2, -1)
    try:
        own = type(module).forward(module, x)
    except TypeError:  # it takes more than a tensor, and so does more
        return False
    return torch.equal(feed_forward(module, x), own)
