"""Groups -> Batch: rows laid out as tensors, and the columns that roles of the policy answer about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignzoo import columns, processes
from alignzoo.errors import DataError, RewardError
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher, MicroBatchTooLarge
from alignzoo.types import Batch, BoolNT, Completion, FloatNT, Group, Score

Row = tuple[int, Group, int]
"""The number of a group, the group, and the place of one of its completions."""

OWN = frozenset({"sampled_logprobs", "finished", "staleness", "turn"})
"""Columns of `Batch.extra` that are filled here; the data's columns of these names are not taken for them."""


def collate(
    groups: Sequence[Group],
    device: torch.device | str = "cpu",
    *,
    scored: bool = True,
    source_weights: Mapping[str, float] | None = None,
    version: int | None = None,
) -> Batch:
    """Lay scored groups out as a batch: right-padded, rows of a group adjacent. Completions that were abstained from,
    or of which no token is trained on, are left out; so are columns in `Group.extra` that some groups lack.

    With `scored=False` every completion is a row with the reward 0, whatever a reward says of it: a batch to be
    answered about, not to be trained on. `source_weights` names the run's rewards, a column each in `Batch.sources`;
    one that only the scores name weighs 1. `version` is the policy's, by which `extra["staleness"]` counts; the newest
    one among the completions where it is not given. Raises DataError where a column in `Group.extra` does not fit the
    tokens, RewardError for a token's reward where nothing is trained.
    """
    if not scored:
        groups = [replace(group, scores=(Score(0.0),) * len(group.completions)) for group in groups]
    rows = [(index, group, i) for index, group in enumerate(groups) for i in _scored(group)]
    lengths = [(len(group.prompt_tokens), len(group.completions[i].tokens)) for _, group, i in rows]
    width = max((p + c for p, c in lengths), default=1)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for row, (_, group, i) in enumerate(rows):
        tokens[row, : sum(lengths[row])] = torch.tensor(group.prompt_tokens + group.completions[i].tokens)
    offset = [0]
    for group in groups:
        offset.append(offset[-1] + len(group.completions))
    position = torch.arange(width)
    prompt, whole = (torch.tensor([f(pair) for pair in lengths]).long() for f in (lambda p: p[0], sum))
    attend = position < whole[:, None]
    completion = attend & (position >= prompt[:, None])
    answers = [group.completions[i] for _, group, i in rows]
    own = completion & _column(rows, width, [each.own for each in answers], True)
    mask = completion & _column(rows, width, [each.trained for each in answers], True)
    media = tuple(group.prompt.media for _, group, _ in rows)
    return Batch(
        tokens=tokens,
        attend=attend,
        mask=mask,
        group=torch.tensor([index for index, _, _ in rows], dtype=torch.long),
        rewards=torch.tensor([_scores(group)[i].value for _, group, i in rows], dtype=torch.float32),
        weights=torch.ones(len(rows)),
        token_rewards=_token_rewards(rows, mask),
        parts=_parts(rows),
        **_sources(rows, source_weights or {}),
        extra=_extra(rows, mask, own, version) if rows else _without_rows(groups, mask, own, version),
        row=torch.tensor([offset[index] + i for index, _, i in rows], dtype=torch.long),
        own=own,
        prompt_length=prompt,
        media=media if any(each is not None for each in media) else (),
    ).to(device)


def _scores(group: Group) -> tuple[Score, ...]:
    if group.scores is None:
        raise DataError("a group without scores cannot be collated: give it a reward first")
    return group.scores


def _scored(group: Group) -> list[int]:
    pairs = zip(_scores(group), group.completions, strict=True)
    return [i for i, (given, each) in enumerate(pairs) if given.value is not None and any(each.trained)]


def _column(rows: Sequence[Row], width: int, values: Sequence[Sequence[float] | None], default: float) -> Tensor:
    """Each row's values on the tokens of its completion, (N, T); `default` where there are none."""
    dtype = torch.bool if isinstance(default, bool) else torch.float32
    column = torch.full((len(rows), width), default, dtype=dtype)
    for row, ((_, group, _), given) in enumerate(zip(rows, values, strict=True)):
        if given is not None:
            start = len(group.prompt_tokens)
            column[row, start : start + len(given)] = torch.tensor(given, dtype=dtype)
    return column


def _token_rewards(rows: Sequence[Row], mask: BoolNT) -> FloatNT | None:
    """Dense rewards, 0 elsewhere; None where there are none. One that stands where nothing is trained would count for
    nothing, so it is an error."""
    given = [_scores(group)[i].tokens for _, group, i in rows]
    if all(each is None for each in given):
        return None
    column = _column(rows, mask.shape[1], given, 0.0)
    lost = ((column != 0) & ~mask).nonzero().tolist()
    if lost:
        row, place = lost[0]
        group = rows[row][1]
        number = float(column[row, place])
        raise RewardError(
            f"a token's reward of {number:g} stands on token {place - len(group.prompt_tokens)} of a completion of "
            f"{str(group.prompt.messages)[:80]!r}, which is not trained on (`Completion.own`, `Completion.mask`): "
            "give it to the last token of a turn of the policy's own"
        )
    return column


def _parts(rows: Sequence[Row]) -> dict[str, Tensor]:
    names = sorted({name for _, group, i in rows for name in _scores(group)[i].parts})
    return {
        name: torch.tensor([_scores(group)[i].parts.get(name, 0.0) for _, group, i in rows], dtype=torch.float32)
        for name in names
    }


def _sources(rows: Sequence[Row], weights: Mapping[str, float]) -> dict[str, Any]:
    """What each reward gave of each row, NaN where it abstained, and the rewards' weights."""
    given = [_scores(group)[i].sources for _, group, i in rows]
    names = [*weights, *sorted({name for each in given for name in each} - weights.keys())]
    columns = {name: torch.tensor([each.get(name, math.nan) for each in given], dtype=torch.float32) for name in names}
    return {"sources": columns, "source_weights": {name: weights.get(name, 1.0) for name in names}}


def _extra(rows: Sequence[Row], mask: BoolNT, own: BoolNT, version: int | None) -> dict[str, Tensor]:
    names = sorted({name for _, group, _ in rows for name in group.extra} - OWN)
    columns = {name: _given(name, rows, mask) for name in names if all(name in group.extra for _, group, _ in rows)}
    completions = [group.completions[i] for _, group, i in rows]
    if completions and all(_is_known(each.logprobs) for each in completions):
        sampled = _column(rows, mask.shape[1], [each.logprobs for each in completions], 0.0)
        columns["sampled_logprobs"] = torch.where(mask & own, sampled, 0.0)
    if any(each.turns for each in completions):
        columns["turn"] = _column(rows, mask.shape[1], [_turn_numbers(each) for each in completions], 0.0) * mask
    columns["finished"] = torch.tensor([float(each.finished) for each in completions])
    columns["staleness"] = _staleness(completions, version)
    return columns


def _without_rows(groups: Sequence[Group], mask: BoolNT, own: BoolNT, version: int | None) -> dict[str, Tensor]:
    """The columns of groups without a score: all are there, and empty, as a `prepare` that reads them expects."""
    names = sorted({name for group in groups for name in group.extra} - OWN)
    given = {name: torch.zeros(0) for name in names if all(name in group.extra for group in groups)}
    return {**given, **_extra((), mask, own, version)}


def _given(name: str, rows: Sequence[Row], mask: BoolNT) -> Tensor:
    """A column of `Group.extra`: (N,), or (N, T) where each of its entries has a number for each token."""
    entries = [group.extra[name][i] for _, group, i in rows]
    numbers = [each for each in entries if not isinstance(each, tuple)]
    if len(numbers) == len(entries):
        return torch.tensor(numbers, dtype=torch.float32)
    by_token: list[tuple[float, ...]] = []
    for (_, group, i), entry in zip(rows, entries, strict=True):
        n = len(group.completions[i].tokens)
        if not isinstance(entry, tuple) or len(entry) != n:
            found = f"{len(entry)} numbers" if isinstance(entry, tuple) else "one number"
            raise DataError(
                f"the column {name!r} has {found} for a completion of {n} tokens of the prompt "
                f"{str(group.prompt.messages)[:80]!r}: give one number for each token, of every completion, or one "
                "number for each completion"
            )
        by_token.append(entry)
    return _column(rows, mask.shape[1], by_token, 0.0) * mask


def _turn_numbers(completion: Completion) -> list[float]:
    """The number of each token's turn, from 0 on."""
    begins = set(completion.turns) - {0}
    numbers, turn = [], 0.0
    for place in range(len(completion.tokens)):
        turn += place in begins
        numbers.append(turn)
    return numbers


def _staleness(completions: Sequence[Completion], version: int | None) -> Tensor:
    """By how many steps the policy that generated it is older than the present one, (N,)."""
    known = [each.policy_version for each in completions if each.policy_version is not None]
    now = max(known, default=0) if version is None else version
    return torch.tensor([float(now - (now if v is None else v)) for v in (each.policy_version for each in completions)])


def trim(batch: Batch) -> Batch:
    """Without the padding columns that no row of it uses."""
    used = int(batch.attend.sum(1).max()) if len(batch) else 1
    if used == batch.tokens.shape[1]:
        return batch
    return batch.with_columns({name: c[:, :used] for name, c in batch.columns().items() if c.ndim == 2})


def widen(column: Tensor, width: int) -> Tensor:
    """Back to the batch's width after `trim`; row columns stay."""
    if column.ndim == 1 or column.shape[1] == width:
        return column
    return torch.nn.functional.pad(column, (0, width - column.shape[1]))


def answer(
    policy: Policy,
    batch: Batch,
    names: frozenset[str],
    *,
    batcher: MicroBatcher | None = None,
    seen: Callable[[int], None] = lambda rows: None,
) -> dict[str, Tensor]:
    """`Policy.forward` without gradient, on this process alone, in micro-batches that fit: each of these columns.
    `seen` is told the rows of each micro-batch that has been answered."""
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    batcher, width = batcher or MicroBatcher(policy), batch.tokens.shape[1]
    rest = list(batcher.cut(batch)) if len(batch) else []
    if not rest:
        return {name: batch.rewards.new_zeros(batch.tokens.shape[: _dimensions(name)]) for name in names}
    while rest:
        micro = rest.pop(0)
        try:
            with batcher.trying(micro), torch.no_grad():
                out = policy.forward(trim(micro), names)
                found = {name: widen(out[name], width) for name in names}
        except MicroBatchTooLarge:
            rest = [part for whole in (micro, *rest) for part in batcher.cut(whole)]
            continue
        for name, column in found.items():
            parts[name].append(column)
        seen(len(micro))
    return {name: torch.cat(pieces) for name, pieces in parts.items()}


def answer_jointly(
    policy: Policy,
    batch: Batch,
    names: frozenset[str],
    *,
    batcher: MicroBatcher | None = None,
    seen: Callable[[int], None] = lambda rows: None,
) -> dict[str, Tensor]:
    """The same of a batch that all processes hold: each computes its share, in as many passes, and gets the others'."""
    batcher = batcher or MicroBatcher(policy)
    if processes.count() == 1:
        return answer(policy, batch, names, batcher=batcher, seen=seen)
    own: dict[int, dict[str, Tensor]] = {}
    for each in batcher.rounds(batch):
        found = {name: column.cpu() for name, column in answer(policy, each.batch, names, batcher=batcher).items()}
        if not each.idle:
            seen(len(each.batch) * processes.count())
            for i, number in enumerate(each.batch.row.tolist()):
                own[number] = {name: found[name][i].clone() for name in names}  # a view would send all rows
    known = {number: row for share in processes.everyones(own) for number, row in share.items()}
    rows = [known[number] for number in batch.row.tolist()]
    if not rows:
        return answer(policy, batch, names, batcher=batcher)
    return {name: torch.stack([row[name] for row in rows]).to(batch.tokens.device) for name in names}


def _dimensions(name: str) -> int:
    return 2 if columns.column(name).answer.per == "token" else 1


def fill(batch: Batch, policy: Policy, needs: frozenset[str], *, batcher: MicroBatcher | None = None) -> Batch:
    """The batch with the columns that `needs` names of other roles, but for those that it has.

    The old log-probabilities come from the training forward, not from the sampler: only so are ratios exactly 1
    before the first update.
    """
    there = batch.columns().keys() | batch.answers.keys()
    missing = columns.filled(needs) - there
    batcher = batcher or MicroBatcher(policy)
    for role, answers in columns.by_role(missing).items():
        if role == columns.OLD:
            told = answer_jointly(policy, batch, answers, batcher=batcher)
        else:
            with policy.answering(role):
                told = answer_jointly(policy, batch, answers, batcher=batcher)
        batch = batch.answered({f"{role}_{name}": column for name, column in told.items()})
    return batch


def only(batch: Batch, needs: frozenset[str]) -> Batch:
    """The batch as an optimizer may see it: columns that it does not name in `needs` are not there."""
    fields_of_roles = [name for name in vars(batch) if columns.is_filled(name)]
    return batch.answered(dict.fromkeys({*fields_of_roles, *batch.answers} - needs))


def _is_known(logprobs: Sequence[float] | None) -> bool:
    """Whether somebody has recorded how likely these tokens were: an engine that draws from a part of the distribution
    may not know, which is no number."""
    return logprobs is not None and not any(map(math.isnan, logprobs))
