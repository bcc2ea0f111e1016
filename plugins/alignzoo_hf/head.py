"""The language-model head, tile by tile: log-probabilities without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alignzoo import functional as fn

TILE = 4_194_304
"""Logits at once: 16 MB in float32, under the size from which the allocator maps fresh pages for every tensor."""


def head_logprobs(
    head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor, temperature: float, *, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """log softmax(head(h)/T)_y and, when asked for, its entropy, from states (M, H); (M,) each, in float32.

    With more than one tile the logits are computed again in the backward pass instead of kept.
    """

    def tile(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h).float()
        logits = logits / temperature if temperature != 1.0 else logits
        if with_entropy:
            return fn.token_logprobs(logits, y)
        logprobs = logits.gather(-1, y[:, None]).squeeze(-1) - torch.logsumexp(logits, -1)
        return logprobs, logprobs.detach()

    if not len(states):
        nothing = states.new_zeros(0, dtype=torch.float32)
        return nothing, nothing if with_entropy else None
    with torch.no_grad():
        vocabulary = head(states[:1]).shape[-1]
    size = max(16, TILE // vocabulary)
    tiles = list(zip(states.split(size), targets.split(size), strict=True))
    again = len(tiles) > 1 and torch.is_grad_enabled()
    answers = [checkpoint(tile, h, y, use_reentrant=False) if again else tile(h, y) for h, y in tiles]
    logprobs = torch.cat([answer[0] for answer in answers])
    return logprobs, torch.cat([answer[1] for answer in answers]) if with_entropy else None
