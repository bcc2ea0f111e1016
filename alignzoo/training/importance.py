"""Completions of an engine whose numbers are not the training forward's, or of an earlier policy, weighed as if the
present policy had sampled them."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from alignzoo import functional as fn
from alignzoo.errors import RunError
from alignzoo.types import Batch, BoolNT, FloatN, FloatNT, Forward, Terms

Mode: TypeAlias = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def importance(
    terms: Terms, batch: Batch, out: Forward, cap: float, mode: Mode = "token_truncate", *, couples: str = "group"
) -> FloatNT | FloatN:
    """The importance weight of each token (see `importance_weights`), or of each row where the loss speaks
    of single rows: of the policy before the first update on this batch where the algorithm keeps that, otherwise of the
    present one, against the one that sampled. Together with the ratio of an algorithm that clips it this is decoupled
    PPO: Hilton et al. 2022 (arXiv:2110.00641), with the policy before the update as the proximal one. Raises RunError
    where the loss or the batch does not speak of sampled tokens."""
    sampled = batch.extra.get("sampled_logprobs")
    if sampled is None:
        raise _useless(
            cap,
            "nothing has recorded how likely these completions were as they were sampled, as where another engine "
            "than alignzoo or generate draws by top_k, top_p or min_p",
        )
    old, by_row = out.logprobs if batch.old_logprobs is None else batch.old_logprobs, terms.loss.ndim == 1
    if old is None or (by_row and not (mode.startswith("sequence") and couples == "row")):
        raise _useless(cap, "this optimizer's loss does not speak of single tokens")
    weights = importance_weights(old, sampled, batch.mask & batch.own, cap, mode)
    if by_row:
        return weights.gather(1, batch.own.long().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(batch.own, weights, 1.0)  # nobody has sampled the others


def importance_weights(
    old_logprobs: FloatNT, sampled_logprobs: FloatNT, mask: BoolNT, cap: float, mode: Mode
) -> FloatNT:
    """What a sample of μ counts for the policy π, per token, (N, T).

    r = π(y_t)/μ(y_t) of each token, or r = Π_t π(y_t)/μ(y_t) over the masked tokens of its row; truncated to min(r, C),
    or masked: r where r ≤ C, else 0. As TRL's `vllm_importance_sampling_mode` of these names without a lower bound, and
    with the first as AReaL's decoupled objective (Fu et al. 2025, arXiv:2505.24298). Only the weight of a whole
    sequence makes the expectation exactly π's; that of a token has less variance. No gradient goes through it.
    """
    if mode == "token_truncate":
        return fn.truncated_importance_weights(old_logprobs, sampled_logprobs, cap)
    difference = fn.log_ratio(old_logprobs, sampled_logprobs, mask)
    if mode.startswith("sequence"):
        difference = difference.sum(1, keepdim=True).expand_as(difference)
    ratio = torch.exp(difference).detach()
    return ratio.clamp(max=cap) if mode.endswith("truncate") else torch.where(ratio <= cap, ratio, 0.0)


def cut(weights: FloatNT | FloatN, cap: float, mode: Mode) -> FloatNT | FloatN:
    """1 where the cap has changed a weight, else 0."""
    return (weights == 0 if mode.endswith("mask") else weights >= cap).to(weights.dtype)


def _useless(cap: float, why: str) -> RunError:
    return RunError(f"schedule.importance_cap is {cap:g}, but {why}: set it to 0")
