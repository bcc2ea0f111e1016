"""Drawing the next token: temperature, top-k, top-p, min-p, an exact draw from a uniform number per row and step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.decoding import CompleteDecoding

COLDEST = 1e-30
"""No temperature below it is divided by, since logits would overflow; the likeliest token has all the probability long
before."""


def uniforms(seeds: Sequence[int], n: int, steps: int) -> Tensor:
    """One number in [0, 1) per completion and step, (prompts·n, steps), in float64.

    Every completion has a stream of its own, seeded by (its prompt's seed, completion): what it says depends neither on
    how many are written at once nor on which others are, and its beginning not on its length limit.
    """
    out = torch.empty(len(seeds) * n, steps, dtype=torch.float64)
    for row in range(len(out)):
        rng = torch.Generator().manual_seed(fn.derive(seeds[row // n], row % n))
        torch.rand(steps, generator=rng, dtype=torch.float64, out=out[row])
    return out


def draw(logits: Tensor, uniform: Tensor, decoding: CompleteDecoding) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probabilities at the given temperature, (N,) each.

    These are of the whole vocabulary, as the training forward says them, also where top-k or top-p left out a part: a
    ratio of the two then tells how far the engine is off, and not how much was left out.
    """
    logits = logits.float()
    temperature = max(decoding.temperature, COLDEST)
    tempered = logits / temperature if temperature != 1.0 else logits
    kept = filtered(tempered, decoding)
    probabilities = torch.softmax(kept, -1)
    tokens = logits.argmax(-1) if decoding.greedy else inverse_cdf(probabilities, uniform)
    whole = probabilities if kept is tempered else torch.softmax(tempered, -1)
    return tokens, whole.gather(-1, tokens[:, None]).squeeze(-1).log()


def filtered(logits: Tensor, decoding: CompleteDecoding) -> Tensor:
    """Logits with all but the top k, then all but the top-p nucleus, then what is less than min_p times as likely as
    the likeliest, set to -inf."""
    if decoding.top_k and decoding.top_k < logits.shape[-1]:
        kth = logits.topk(decoding.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if decoding.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= decoding.top_p  # the first token always stays
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    if decoding.min_p > 0:
        least = logits.max(-1, keepdim=True).values + math.log(decoding.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes the row's uniform number, (N,), found in two levels.

    token = min{v : Σ_{w≤v} p_w > u·Σ p}: first the block of about √V tokens, by the sums of the blocks, then the token
    inside it. One pass over the vocabulary in float32; the cumulative sums, over √V numbers, are in float64. Exact: the
    error of a token's probability is the rounding of its block's sum, of order 1e-7 of itself, and a token of
    probability 0 is never drawn. Neither noise nor a cumulative sum for every entry of the vocabulary is needed
    (Gumbel-max and multinomial draw one number for each), and the same number draws the same token whatever the other
    rows are, on every device.
    """
    rows, vocabulary = probabilities.shape
    size = 1 << round(math.log2(math.sqrt(vocabulary)))
    whole = vocabulary // size * size
    if whole < vocabulary:
        probabilities = torch.nn.functional.pad(probabilities, (0, size - vocabulary + whole))
    blocks = probabilities.view(rows, -1, size)
    block, share = _passed(blocks.sum(-1), uniform)
    inside = blocks[torch.arange(rows, device=block.device), block]
    return block * size + _passed(inside, share)[0]


def _passed(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Where the cumulative weight of each row passes u·total, and how far into that entry it does, as a share of it."""
    cumulative = weights.double().cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())  # the last entry with any weight
    index = torch.minimum(index, last)  # rounding may lift the threshold to the very end
    weight = weights.gather(-1, index).double()
    share = (threshold - cumulative.gather(-1, index) + weight) / weight
    return index.squeeze(-1), share.squeeze(-1).clamp(0, 1)
