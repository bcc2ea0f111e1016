"""Samples token by token: what each token is as text, how likely it was, and what it was credited with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import collate, fill
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.training.passes import WATCHED
from alignzoo.types import Batch, Group

Tokens = list[dict[str, Any]]
"""Columns of each completion, token by token."""

SHOWN = 8
"""The number of groups whose tokens are kept."""


def filled(groups: Sequence[Group], policy: Policy, batcher: MicroBatcher) -> Batch:
    """The first groups as a batch with their log-probabilities, whatever a reward says of them."""
    return fill(collate(groups[:SHOWN], policy.device, scored=False), policy, WATCHED, batcher=batcher)


def token_columns(
    shown: Sequence[Group],
    policy: Policy,
    groups: Sequence[Group],
    batch: Batch,
    prepared: Batch | None = None,
) -> Tokens:
    """For each completion shown, in order: `tokens` as text, and `logprobs`, `ref_logprobs` and `advantages`, of each
    token, as far as the batch of `groups` knows them: None of tokens that are not trained on. `own` says which are the
    policy's own, and `turns` where turns begin, where there is more to say than that all are. Nothing of the
    completions beyond the first groups shown."""
    numbers = {id(c): number for number, c in enumerate(c for group in groups for c in group.completions)}
    known = {number: place for place, number in enumerate(batch.row.tolist())}
    trained = {} if prepared is None else {number: place for place, number in enumerate(prepared.row.tolist())}
    strings = policy.info().token_strings
    found: Tokens = []
    for place, group in enumerate(shown):
        for completion in group.completions:
            number, columns = numbers.get(id(completion)), dict[str, Any]()
            if place < SHOWN:
                if strings is not None:
                    columns["tokens"] = strings(completion.tokens)
                if completion.own is not None:
                    columns["own"] = list(completion.own)
                if completion.turns:
                    columns["turns"] = list(completion.turns)
                if number in known:
                    answers = {"logprobs": batch.old_logprobs, "ref_logprobs": batch.ref_logprobs}
                    columns |= _row(answers, batch, known[number])
                if prepared is not None and number in trained:
                    columns |= _row({"advantages": _spread(prepared)}, prepared, trained[number])
            found.append(columns)
    return found


def _spread(prepared: Batch) -> Tensor | None:
    """Advantages of tokens; of whole completions, the same on each of their tokens."""
    found = prepared.advantages
    return fn.token_column(found, prepared.mask) if found is not None and found.ndim == 1 else found


def _row(columns: Mapping[str, Tensor | None], batch: Batch, row: int) -> dict[str, list[float | None]]:
    """One row's numbers, of its completion alone."""
    span = slice(int(batch.prompt_length[row]), int(batch.attend[row].sum()))
    trained = batch.mask[row, span].tolist()
    return {
        name: [round(v, 4) if known else None for v, known in zip(column[row, span].tolist(), trained, strict=True)]
        for name, column in columns.items()
        if column is not None
    }
