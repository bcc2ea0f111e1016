"""Completions of an engine whose numbers are not the training forward's, weighed as if the policy had sampled them."""

from __future__ import annotations

import torch

from alignzoo import functional as fn
from alignzoo.errors import RunError
from alignzoo.types import Batch, FloatNT, Forward, Terms


def importance(terms: Terms, batch: Batch, out: Forward, cap: float) -> FloatNT:
    """The truncated importance weight of each token (see `functional.truncated_importance_weights`): of the policy
    before the first update on this batch where the algorithm keeps that, otherwise of the present one, against the
    engine that wrote the tokens. Raises RunError where the loss or the batch does not speak of sampled tokens."""
    sampled = batch.extra.get("sampled_logprobs")
    if sampled is None:
        raise _useless(
            cap,
            "nothing has recorded how likely these completions were as they were sampled, as where another engine "
            "than alignzoo or generate draws by top_k, top_p or min_p",
        )
    old = out.logprobs if batch.old_logprobs is None else batch.old_logprobs
    if old is None or terms.loss.ndim == 1:
        raise _useless(cap, "this optimizer's loss does not speak of single tokens")
    weights = fn.truncated_importance_weights(old, sampled, cap)
    return torch.where(batch.own, weights, 1.0)  # nobody has sampled the others


def _useless(cap: float, why: str) -> RunError:
    return RunError(f"schedule.importance_cap is {cap:g}, but {why}: set it to 0")
