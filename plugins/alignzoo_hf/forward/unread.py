"""What nobody reads: the last layer's feed-forward is computed for those tokens alone whose last states are asked for.

Every other part of a model serves the tokens that come later. This one serves its own token only, so that leaving out
a prompt, or all of a text but the token that is scored, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


@contextmanager
def left_out(base: nn.Module, read: Tensor) -> Iterator[None]:
    """Inside, states of tokens beside `read` (R,), each named once, come out of a trunk without meaning. It is given
    one row of P tokens."""
    part = feed_forward(base)
    if part is None:
        yield
        return
    length = 0

    def select(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        nonlocal length
        length = given[0].shape[1]
        return (given[0].index_select(1, read),)

    def spread(module: nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
        return out.new_zeros(1, length, out.shape[2]).index_copy(1, read, out)

    hooks = part.register_forward_pre_hook(select), part.register_forward_hook(spread)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


_found: WeakKeyDictionary[nn.Module, nn.Module | None] = WeakKeyDictionary()


def feed_forward(base: Any) -> nn.Module | None:
    """The feed-forward part of a trunk's last layer; None where there is none of a token alone, or none is found."""
    if base not in _found:
        layers = stack(base)
        part = getattr(layers[-1], "mlp", None) if layers else None
        _found[base] = part if isinstance(part, nn.Module) and _of_a_token_alone(part, base) else None
    return _found[base]


def stack(base: Any) -> list[Any]:
    """The layers of a trunk; none where no list of them is found."""
    layers = base.config.get_text_config().num_hidden_layers
    return next((list(p) for p in base.modules() if isinstance(p, nn.ModuleList) and len(p) == layers), [])


@torch.no_grad()
def _of_a_token_alone(part: nn.Module, base: Any) -> bool:
    """Whether a module takes states and nothing else, and answers each token by itself."""
    weight = next(part.parameters(), next(base.parameters()))
    states = torch.linspace(-1.0, 1.0, 3 * base.config.get_text_config().hidden_size).view(1, 3, -1).to(weight)
    try:
        whole, alone = part(states), part(states[:, 1:2])
    except TypeError:  # it takes more, such as the residual
        return False
    if not isinstance(whole, Tensor) or whole.shape != states.shape:
        return False
    near = 1e-5 if weight.dtype in (torch.float32, torch.float64) else 1e-2
    return torch.allclose(whole[:, 1:2], alone, rtol=near, atol=near)
