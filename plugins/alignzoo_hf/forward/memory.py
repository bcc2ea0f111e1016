"""How many tokens a pass takes: what a device's memory is good for."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from alignzoo import cost
from alignzoo.cost import ModelShape
from alignzoo.errors import ModelError
from alignzoo.microbatch import is_out_of_memory
from alignzoo_hf.forward import head

Generations = TypeVar("Generations")
log = logging.getLogger("alignzoo")

SMALL = 1 << 25
"""Bytes from where on the C library maps every new tensor's pages afresh, which costs more than computing it."""

ON_CPU = (256, 1024, 2048)
"""Tokens at least, for matrix products to be efficient; at most; and at most where gradients are so large that adding
up those of one micro-batch more is felt. Of a million weights, 1024 and 2048 tokens at once took the same time, and 535
and 605 MB; of 25 million, 512, 1024 and 2048 took 1.79, 1.70 and 1.66 s for an update by dpo, and 1.09, 1.17 and 1.34
GB."""

HELD, ENOUGH = 640_000_000, 512
"""Bytes of activations beyond which time is hardly gained for memory, and tokens that suffice for that to be so."""

ON_GPU = (1024, 65_536)
"""The same for a GPU."""

SHARE = 0.6
"""Share of the free memory for activations; the rest is for logits, temporaries, and what allocators lose."""


def per_pass(
    shape: ModelShape, place: torch.device, width: int, coming: int, *, recompute: bool, shards: int = 1
) -> int:
    """Tokens per pass: on the CPU so few that tensors stay small, on a GPU what its free memory holds once so many
    bytes that are still to come have theirs."""
    if place.type != "cuda":
        return on_cpu(shape)
    return on_gpu(shape, free(place) - coming, width, recompute=recompute, shards=shards)


def on_cpu(shape: ModelShape) -> int:
    """As many tokens, in float32, as keep the widest tensor of a layer small, activations within bounds, and the head's
    probabilities so few that they are kept rather than computed twice."""
    widest = max(shape.intermediate, shape.hidden, shape.heads * shape.head_dim)
    held = max(ENOUGH, HELD // cost.activation_bytes(shape, 1))
    least, most, more = ON_CPU
    most = more if cost.gradient_bytes(shape) > SMALL else most
    return _within(min(SMALL // (cost.FLOAT32 * widest), held, head.CPU.kept // shape.vocab), least, most)


def on_gpu(shape: ModelShape, free: int, width: int, *, recompute: bool = False, shards: int = 1) -> int:
    """As many tokens as the free bytes hold the activations of, in `width` bytes, once gradients and AdamW's moments
    have theirs; with `recompute` those of one layer, and the others' inputs. Over several `shards` each GPU has its
    part of these, and beside it what is gathered: two layers, and embeddings and head with their gradients."""
    left = free - (cost.gradient_bytes(shape) + cost.adamw_bytes(shape)) // shards
    if shards > 1:
        left -= width * (2 * shape.trunk // shape.layers + 2 * (shape.parameters - shape.trunk))
    held = cost.recompute_bytes if recompute else cost.activation_bytes
    return _within(int(SHARE * left / held(shape, 1, width)), *ON_GPU)


def free(device: torch.device) -> int:
    """A GPU's free bytes, with those that torch keeps for itself."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def _within(tokens: int, least: int, most: int) -> int:
    """The power of two below, between the two."""
    return min(most, max(least, 1 << max(0, tokens.bit_length() - 1))) if tokens > 0 else least


def fitting(
    generate: Callable[[int], Generations], at_once: int, of: int, most: int, device: torch.device
) -> tuple[Generations, int]:
    """What `generate` does with so many of the completions at once, and that number: where memory does not suffice half
    of it, as often as need be."""
    while True:
        try:
            return generate(at_once), at_once
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            at_once = fewer(min(at_once, of), error, tell=at_once == most)
            traceback.clear_frames(error.__traceback__)  # they hold on to what did not fit
        if device.type == "cuda":
            torch.cuda.empty_cache()


def fewer(completions: int, error: Exception, *, tell: bool) -> int:
    """Half of so many completions, which did not fit in memory together. Raises ModelError where it was one alone."""
    if completions == 1:
        raise ModelError(
            "out of memory while a single completion was generated: use fewer new tokens (policy.max_new_tokens), "
            "shorter prompts (policy.max_length), a lower precision (policy.dtype), or a smaller model"
        ) from error
    half = completions // 2
    if tell:
        log.warning(
            "out of memory while %d completions were generated at once: it goes on with %d, and half of those where "
            "need be, which changes no text; policy.generate_batch = %d begins there",
            completions,
            half,
            half,
        )
    return half
