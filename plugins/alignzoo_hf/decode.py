"""Writing: batched, KV-cached sampling over any transformers causal model.

Each distinct prompt is prefilled once and its cache repeated for its group; rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from alignzoo.types import Completion

COMPACT_BELOW = 0.8
"""Finished rows leave the batch once fewer than this share of its rows are still being written."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False


def draw(logits: Tensor, uniform: Tensor, settings: Sampling) -> tuple[Tensor, Tensor]:
    """Next tokens and their log-probabilities under the distribution they were drawn from, (N,) each.

    Inverse-CDF sampling with one uniform number per row: the same numbers draw the same tokens, whatever other rows
    are in the batch. A greedy choice is told with its log-probability at the given temperature.
    """
    logits = filtered(logits.float() / settings.temperature, settings)
    logprobs = torch.log_softmax(logits, -1)
    if settings.greedy:
        tokens = logprobs.argmax(-1)
    else:
        cumulative = logprobs.exp().cumsum(-1)
        threshold = uniform[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, threshold, right=True)
        last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())  # the last token with any probability
        tokens = torch.minimum(tokens, last).squeeze(-1)  # rounding may lift the threshold to the very end
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)


def filtered(logits: Tensor, settings: Sampling) -> Tensor:
    """Logits with all but the top k, then all but the top-p nucleus, set to -inf."""
    if settings.top_k and settings.top_k < logits.shape[-1]:
        kth = logits.topk(settings.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if settings.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= settings.top_p  # the first token always stays
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits


def decode(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    n: int,
    settings: Sampling,
    *,
    stop_ids: frozenset[int],
    rng: torch.Generator,
    text: Callable[[Sequence[int]], str],
) -> list[tuple[Completion, ...]]:
    """`n` completions of each prompt."""
    device = model.device
    uniform = torch.rand(settings.max_new_tokens, len(prompts) * n, generator=rng).to(device)
    stops = torch.tensor(sorted(stop_ids), device=device)
    logits, cache, attend = _prefill(model, prompts, device)
    cache.batch_repeat_interleave(n)
    logits, attend = logits.repeat_interleave(n, 0), attend.repeat_interleave(n, 0)

    n_rows, longest = len(logits), settings.max_new_tokens
    tokens = torch.zeros(n_rows, longest, dtype=torch.long, device=device)
    logprobs = torch.zeros(n_rows, longest, device=device)
    lengths = torch.full((n_rows,), longest, device=device)
    finished = torch.zeros(n_rows, dtype=torch.bool, device=device)
    rows = torch.arange(n_rows, device=device)  # which of them are still in the batch
    for t in range(longest):
        chosen, logprob = draw(logits, uniform[t, rows], settings)
        open_rows = rows[~finished[rows]]
        alive = ~finished[rows]
        tokens[open_rows, t], logprobs[open_rows, t] = chosen[alive], logprob[alive]
        ended = open_rows[torch.isin(chosen[alive], stops)]
        finished[ended], lengths[ended] = True, t + 1
        n_alive = int((~finished[rows]).sum())
        if n_alive == 0 or t == longest - 1:
            break
        if n_alive < COMPACT_BELOW * len(rows):
            keep = (~finished[rows]).nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            rows, chosen, attend = rows[keep], chosen[keep], attend[keep]
        attend = torch.cat([attend, attend.new_ones(len(rows), 1)], 1)
        position = attend.sum(1, keepdim=True) - 1
        out = model(
            chosen[:, None], attention_mask=attend, position_ids=position, past_key_values=cache, use_cache=True
        )
        logits = out.logits[:, -1]
    return _completions(tokens, logprobs, lengths, finished, n, text)


def _prefill(model: Any, prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Any, Tensor]:
    """The last logits and the cache of each prompt, left-padded so that all rows write the same column."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    attend = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
    position = (attend.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    out = model(
        tokens, attention_mask=attend, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    return out.logits[:, -1], cache, attend


def _completions(
    tokens: Tensor, logprobs: Tensor, lengths: Tensor, finished: Tensor, n: int, text: Callable[[Sequence[int]], str]
) -> list[tuple[Completion, ...]]:
    written = [
        Completion(tuple(ids[:length]), text(ids[:length]), bool(done), tuple(lp[:length]))
        for ids, lp, length, done in zip(
            tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]
    return [tuple(written[i : i + n]) for i in range(0, len(written), n)]
