"""Groups -> Batch: rows laid out as tensors, and the columns that roles of the policy answer about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignzoo import columns, processes
from alignzoo.errors import DataError
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher, MicroBatchTooLarge
from alignzoo.types import Batch, Group, Score

OWN = frozenset({"sampled_logprobs", "finished", "age"})
"""Columns of `Batch.extra` that are filled here; the data's columns of these names are not taken for them."""


def collate(groups: Sequence[Group], device: torch.device | str = "cpu") -> Batch:
    """Lay scored groups out as a batch: right-padded, rows of a group adjacent, abstained completions left out. Columns
    in `Group.extra` that some groups lack are left out."""
    rows = [(index, group, i) for index, group in enumerate(groups) for i in _scored(group)]
    lengths = [(len(group.prompt_tokens), len(group.completions[i].tokens)) for _, group, i in rows]
    width = max((p + c for p, c in lengths), default=1)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    dense = torch.zeros(len(rows), width)
    for row, (_, group, i) in enumerate(rows):
        start, end = lengths[row][0], sum(lengths[row])
        tokens[row, :end] = torch.tensor(group.prompt_tokens + group.completions[i].tokens)
        if (given := _scores(group)[i].tokens) is not None:
            dense[row, start:end] = torch.tensor(given)
    offset = [0]
    for group in groups:
        offset.append(offset[-1] + len(group.completions))
    position = torch.arange(width)
    prompt, whole = (torch.tensor([f(pair) for pair in lengths]).long() for f in (lambda p: p[0], sum))
    attend = position < whole[:, None]
    is_dense = any(_scores(group)[i].tokens is not None for _, group, i in rows)
    return Batch(
        tokens=tokens,
        attend=attend,
        mask=attend & (position >= prompt[:, None]),
        group=torch.tensor([index for index, _, _ in rows], dtype=torch.long),
        rewards=torch.tensor([_scores(group)[i].value for _, group, i in rows], dtype=torch.float32),
        weights=torch.ones(len(rows)),
        token_rewards=dense if is_dense else None,
        parts=_parts(rows),
        extra=_extra(rows),
        row=torch.tensor([offset[index] + i for index, _, i in rows], dtype=torch.long),
    ).to(device)


def _scores(group: Group) -> tuple[Score, ...]:
    if group.scores is None:
        raise DataError("a group without scores cannot be collated: give it a reward first")
    return group.scores


def _scored(group: Group) -> list[int]:
    return [i for i, given in enumerate(_scores(group)) if given.value is not None and group.completions[i].tokens]


def _parts(rows: Sequence[tuple[int, Group, int]]) -> dict[str, Tensor]:
    names = sorted({name for _, group, i in rows for name in _scores(group)[i].parts})
    return {
        name: torch.tensor([_scores(group)[i].parts.get(name, 0.0) for _, group, i in rows], dtype=torch.float32)
        for name in names
    }


def _extra(rows: Sequence[tuple[int, Group, int]]) -> dict[str, Tensor]:
    names = sorted({name for _, group, _ in rows for name in group.extra} - OWN)
    columns = {
        name: torch.tensor([group.extra[name][i] for _, group, i in rows], dtype=torch.float32)
        for name in names
        if all(name in group.extra for _, group, _ in rows)
    }
    written = [group.completions[i].logprobs for _, group, i in rows]
    if written and all(each is not None for each in written):
        columns["sampled_logprobs"] = _sampled(rows)
    columns["finished"] = torch.tensor([float(group.completions[i].finished) for _, group, i in rows])
    columns["age"] = torch.tensor([float(group.completions[i].age) for _, group, i in rows])
    return columns


def _sampled(rows: Sequence[tuple[int, Group, int]]) -> Tensor:
    """What was recorded of each token when it was sampled, 0 elsewhere, (N, T)."""
    lines = [(0.0,) * len(group.prompt_tokens) + (group.completions[i].logprobs or ()) for _, group, i in rows]
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(line) for line in lines], batch_first=True)


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
    policy: Policy, batch: Batch, names: frozenset[str], *, batcher: MicroBatcher | None = None
) -> dict[str, Tensor]:
    """`Policy.forward` without gradient, on this process alone, in micro-batches that fit: each of these columns."""
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
                for name in names:
                    parts[name].append(widen(out[name], width))
        except MicroBatchTooLarge:
            rest = [part for whole in (micro, *rest) for part in batcher.cut(whole)]
    return {name: torch.cat(found) for name, found in parts.items()}


def answer_jointly(
    policy: Policy, batch: Batch, names: frozenset[str], *, batcher: MicroBatcher | None = None
) -> dict[str, Tensor]:
    """The same of a batch that all processes hold: each computes its share, in as many passes, and gets the others'."""
    batcher = batcher or MicroBatcher(policy)
    if processes.count() == 1:
        return answer(policy, batch, names, batcher=batcher)
    own: dict[int, dict[str, Tensor]] = {}
    for each in batcher.rounds(batch):
        found = answer(policy, each.batch, names, batcher=batcher)
        if not each.idle:
            for i, number in enumerate(each.batch.row.tolist()):
                own[number] = {name: found[name][i].cpu() for name in names}
    known = {number: row for share in processes.everyones(own) for number, row in share.items()}
    rows = [known[number] for number in batch.row.tolist()]
    if not rows:
        return answer(policy, batch, names, batcher=batcher)
    return {name: torch.stack([row[name] for row in rows]).to(batch.tokens.device) for name in names}


def _dimensions(name: str) -> int:
    return 2 if columns.column(name).answer.per == "token" else 1


def fill(
    batch: Batch, policy: Policy, needs: frozenset[str], *, batcher: MicroBatcher | None = None
) -> Batch:
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
