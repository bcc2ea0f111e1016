"""Samples token by token: what each token is as text, how likely it was, and what it was credited with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from alignzoo import functional as fn
from alignzoo.collate import collate, fill, key_of, keys
from alignzoo.interfaces import HasPieces, Policy
from alignzoo.room import Room
from alignzoo.types import Batch, Group, Score

Tokens = list[dict[str, Any]]
"""Columns of each completion, token by token."""

SHOWN = 8
"""Of how many groups the tokens are kept."""

WATCHED = frozenset({"old_logprobs", "ref_logprobs"})
"""What is kept of every writer."""


def filled(groups: Sequence[Group], policy: Policy, room: Room) -> Batch:
    """The first groups as a batch with their log-probabilities, whatever a reward says of them."""
    unscored = [replace(g, scores=(Score(0.0),) * len(g.completions), extra={}) for g in groups[:SHOWN]]
    return fill(collate(unscored, policy.device), policy, WATCHED, room=room)


def token_columns(groups: Sequence[Group], policy: Policy, batch: Batch, prepared: Batch | None = None) -> Tokens:
    """For each completion, in order: `tokens` as text, and `logprobs`, `ref_logprobs` and `advantages`, of each token,
    as far as they are known. Nothing of the completions beyond the first groups."""
    known = dict(zip(keys(batch), range(len(batch)), strict=True))
    learnt = {} if prepared is None else dict(zip(keys(prepared), range(len(prepared)), strict=True))
    found: Tokens = []
    for number, group in enumerate(groups):
        for completion in group.completions:
            if number >= SHOWN:
                found.append({})
                continue
            key = key_of(group.prompt_tokens, completion.tokens)
            columns: dict[str, Any] = {}
            if isinstance(policy, HasPieces):
                columns["tokens"] = policy.pieces(completion.tokens)
            if key in known:
                row = {"logprobs": batch.old_logprobs, "ref_logprobs": batch.ref_logprobs}
                columns |= _row(row, batch, known[key])
            if prepared is not None and key in learnt:
                columns |= _row({"advantages": _spread(prepared)}, prepared, learnt[key])
            found.append(columns)
    return found


def _spread(prepared: Batch) -> Tensor | None:
    """Advantages of tokens; of whole completions, the same on each of their tokens."""
    found = prepared.advantages
    return fn.token_column(found, prepared.mask) if found is not None and found.ndim == 1 else found


def _row(columns: Mapping[str, Tensor | None], batch: Batch, row: int) -> dict[str, list[float]]:
    """One row's numbers, of its completion alone."""
    return {
        name: [round(value, 4) for value in column[row][batch.mask[row]].tolist()]
        for name, column in columns.items()
        if column is not None
    }
