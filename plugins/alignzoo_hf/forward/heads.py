"""What heads beside the language model's answer: critics, and scoring heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.errors import ModelError
from alignzoo.types import Batch
from alignzoo_hf.forward.head import wide
from alignzoo_hf.forward.trunk import States
from alignzoo_hf.model import models

StatesOf = Callable[[Any, Batch, Tensor, Tensor], States]
"""A model's states of a batch: of the tokens that are used, where they are read."""


def values(head: torch.nn.Module, states: States, batch: Batch) -> Tensor:
    """A critic's answer before each token, (N, T)."""
    chosen = states.hidden[fn.before(states.place)[fn.predicted(batch.mask)]]  # (M, H)
    found = head(chosen).squeeze(-1)
    return fn.scatter(found.to(wide(found.dtype)), batch.mask)


def scores(scorer: Any, batch: Batch, states_of: StatesOf) -> Tensor:
    """The scoring head's outputs at the last token of each row, (N, labels)."""
    if scorer is None:
        raise ModelError("this policy has no scoring head: load it for an optimizer that needs 'scores'")
    if not models.reads_last_token(scorer):
        whole: Tensor = scorer(batch.tokens, attention_mask=batch.attend.long()).logits
        return whole.float()
    read = ended(scorer, batch)
    states = states_of(scorer, batch, batch.attend, read)
    found: Tensor = models.score_head(scorer)(states.hidden[states.place[read]])
    return found.to(wide(found.dtype))


def ended(scorer: Any, batch: Batch) -> Tensor:
    """Where a row's score is read, one True in each row, (N, T)."""
    last = models.read_at(scorer, batch.tokens, batch.attend)
    read = torch.zeros_like(batch.attend)
    read[torch.arange(len(batch), device=last.device), last] = True
    return read


def token_scores(scorer: Any, label: int, batch: Batch, states_of: StatesOf) -> Tensor:
    """The scoring head at every token that is trained on, (N, T)."""
    head = models.score_head(scorer)  # raises where texts are scored whole
    states = states_of(scorer, batch, batch.attend, batch.mask)
    found = head(states.hidden[states.place[batch.mask]])[:, label]
    return torch.zeros(batch.mask.shape, dtype=wide(found.dtype), device=found.device).masked_scatter(
        batch.mask, found.to(wide(found.dtype))
    )
