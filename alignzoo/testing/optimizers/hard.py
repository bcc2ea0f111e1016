"""What an optimizer must survive: ties, one token, far log-ratios, no score at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from alignzoo import columns
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.measure import Case, answer, case, columns_of, loss, objective, prepare
from alignzoo.testing.world import TOY_WEIGHTS, column_values, toy_groups
from alignzoo.types import Batch, Group, Score


def hard_inputs(optimizer: Optimizer, given: Given) -> None:
    """Ties, one-token completions, far log-ratios, no score at all: an empty batch or a finite loss."""
    ragged = toy_groups(columns=given.columns)
    cause = "a division by a count, a standard deviation or a length that can be 0, or a mean over no rows"
    for hard, groups in {
        "groups whose scores are all equal": [_scored(group, 1.0) for group in ragged],
        "completions of one token": [_shortened(group) for group in ragged],
        "one tied pair of one token each": [_shortened(_scored(ragged[1], 0.0))],
        "one completion of one token": [_shortened(ragged[0])],
        "a reward that abstains everywhere": [_abstaining(group, 99) for group in ragged],
        "one score of each group from a reward, the rest from none": [_abstaining(group, 1) for group in ragged],
        "no completion that has a score": [_scored(group, None) for group in ragged],
        "no group at all": [],
    }.items():
        made = case(optimizer, groups)
        if not groups:  # of which nobody could know the columns
            extra = {**made.batch.extra, **{name: torch.zeros(0) for name in column_values(given.columns)}}
            made = replace(made, batch=replace(made.batch, extra=extra))
        _survives(Attempt(4, hard, cause), optimizer, made)
    cause = "exp() of a log-ratio without a bound, or a log() of what can round to 0"
    near = case(optimizer, ragged, drift=0.0)
    filled = [name for name in sorted(columns.filled(optimizer.needs)) if name.endswith("logprobs")]
    for read in (*([name] for name in filled), filled):
        if read:
            hard = f"one token in each row whose log-ratio to {' and '.join(read)} is +50 or -50"
            _survives(Attempt(4, hard, cause), optimizer, Case(near.policy, _far(near.batch, read)))


def _scored(group: Group, value: float | None) -> Group:
    sources = {} if value is None else dict.fromkeys(TOY_WEIGHTS, value / sum(TOY_WEIGHTS.values()))
    return replace(group, scores=(Score(value, sources=sources),) * len(group.completions))


def _abstaining(group: Group, kept: int) -> Group:
    """Scored by nobody but the first reward, and of it only so many completions; by 1 and 0 in turn."""
    name = next(iter(TOY_WEIGHTS))
    values = [float(i % 2) if i < kept else None for i in range(len(group.completions))]
    return replace(group, scores=tuple(Score(v or 0.0, sources={} if v is None else {name: v}) for v in values))


def _shortened(group: Group) -> Group:
    return replace(group, completions=tuple(c.cut(1) for c in group.completions))


def _far(batch: Batch, names: Sequence[str]) -> Batch:
    rows = torch.arange(len(batch))
    away = torch.zeros(batch.tokens.shape)
    away[rows, batch.mask.long().argmax(1)] = torch.where(rows % 2 == 0, 50.0, -50.0)
    return batch.answered({name: batch[name] + away for name in names})


def _survives(attempt: Attempt, optimizer: Optimizer, made: Case) -> None:
    prepared = prepare(attempt, optimizer, made.batch)
    for name, column in columns_of(prepared).items():
        if not name.startswith("sources."):  # where a reward abstains, its column says so by NaN
            attempt.finite(f"{name} from prepare", column)
    if not len(prepared):
        return
    terms = loss(attempt, optimizer, prepared, answer(optimizer, made.policy, prepared))
    found = objective(attempt, optimizer, made.policy, [prepared], len(prepared))
    for name, values in {"loss": found.loss, "gradient": found.gradient, **terms.metrics}.items():
        attempt.finite(name, values)
