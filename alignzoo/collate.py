"""Groups -> Batch: combine rewards, lay rows out as tensors, and fill the columns that an optimizer needs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alignzoo.errors import AlignzooError, DataError, RewardError
from alignzoo.interfaces import Policy, RewardSource
from alignzoo.room import NoRoomError, Room
from alignzoo.types import Batch, Forward, Group, Score

ANSWERED = ("logprobs", "entropy", "values", "scores")
"""Columns that `Policy.forward` answers."""


@dataclass(frozen=True)
class WeightedReward:
    """One of a run's reward sources."""

    name: str
    """How its part is called in the metrics."""
    source: RewardSource
    weight: float = 1.0


def score(groups: Sequence[Group], rewards: Sequence[WeightedReward], policy: Policy) -> list[Group]:
    """The groups with one combined score per completion: Σ weight·value; each source by itself in `parts`.

    A source that abstains adds nothing to that completion; when all abstain, the completion has no score. Raises
    RewardError when a source raises, or answers anything but one finite number or None per completion.
    """
    answers = [_ask(reward, groups, policy) for reward in rewards]
    combined = []
    for index, group in enumerate(groups):
        sources = [answer[index] for answer in answers]
        scores = tuple(_combine(rewards, [s[i] for s in sources]) for i in range(len(group.completions)))
        combined.append(replace(group, scores=scores))
    return combined


def _ask(reward: WeightedReward, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
    try:
        answer = reward.source.score(groups, policy)
    except AlignzooError:
        raise
    except Exception as error:
        raise RewardError(
            f"the reward {reward.name!r} raised {type(error).__name__}: {error}. Call it by hand on one prompt and "
            "completion to see why; --debug shows where."
        ) from error
    if len(answer) != len(groups):
        raise RewardError(f"the reward {reward.name!r} answered {len(answer)} groups, expected {len(groups)}")
    for group, scores in zip(groups, answer, strict=True):
        _check(reward.name, group, scores)
    return answer


def _check(name: str, group: Group, scores: Sequence[Score]) -> None:
    if len(scores) != len(group.completions):
        raise RewardError(
            f"the reward {name!r} gave {len(scores)} scores for {len(group.completions)} completions of "
            f"{str(group.prompt.messages)[:80]!r}: one per completion is expected"
        )
    for completion, given in zip(group.completions, scores, strict=True):
        numbers = [] if given.value is None else [given.value]
        numbers += given.tokens or ()
        if not all(math.isfinite(number) for number in numbers):
            raise RewardError(
                f"the reward {name!r} gave {given.value} for {completion.text[:80]!r}: a finite number is expected, "
                "or None to abstain"
            )
        if given.tokens is not None and len(given.tokens) != len(completion.tokens):
            raise RewardError(
                f"the reward {name!r} gave {len(given.tokens)} token rewards for {len(completion.tokens)} tokens"
            )


def _combine(rewards: Sequence[WeightedReward], scores: Sequence[Score]) -> Score:
    parts: dict[str, float] = {}
    value: float | None = None
    dense: list[float] | None = None
    for reward, given in zip(rewards, scores, strict=True):
        parts |= {f"{reward.name}/{part}": number for part, number in given.parts.items()}
        if given.value is not None:
            parts[reward.name] = given.value
            value = (value or 0.0) + reward.weight * given.value
        if given.tokens is not None:
            weighted = [reward.weight * number for number in given.tokens]
            dense = weighted if dense is None else [a + b for a, b in zip(dense, weighted, strict=True)]
    note = "; ".join(given.note for given in scores if given.note)
    return Score(value, None if dense is None else tuple(dense), parts, note)


def collate(groups: Sequence[Group], device: torch.device | str = "cpu") -> Batch:
    """Lay scored groups out as a batch: right-padded, rows of a group adjacent, abstained completions left out.

    Raises DataError when a column in `Group.extra` is missing from some groups.
    """
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
    names = sorted({name for _, group, _ in rows for name in group.extra})
    columns = {}
    for name in names:
        lacking = next((group for _, group, _ in rows if name not in group.extra), None)
        if lacking is not None:
            raise DataError(
                f"the column {name!r} is missing for the prompt {str(lacking.prompt.messages)[:80]!r} but present for "
                "others: give every row the column, or none"
            )
        columns[name] = torch.tensor([group.extra[name][i] for _, group, i in rows], dtype=torch.float32)
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
    width = batch.tokens.shape[1]
    if used == width:
        return batch

    def cut(column: Tensor) -> Tensor:
        return column[:, :used] if column.ndim == 2 else column

    def cut_all(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: cut(column) for name, column in columns.items()}

    columns: dict[str, Any] = {name: cut(value) for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **columns, parts=cut_all(batch.parts), extra=cut_all(batch.extra))


def answer(policy: Policy, batch: Batch, columns: frozenset[str], *, room: Room | None = None) -> dict[str, Tensor]:
    """`Policy.forward` without gradient, in micro-batches that fit: each column asked for, whole."""
    asked, width = columns & set(ANSWERED), batch.tokens.shape[1]
    pieces: dict[str, list[Tensor]] = {name: [] for name in asked}
    room, rest = room or Room(policy), batch
    while True:
        done = 0
        with contextlib.suppress(NoRoomError):
            for chunk in room.chunks(rest):
                with room.trying(chunk), torch.no_grad():
                    out: Forward = policy.forward(trim(chunk), asked)
                    for name in asked:
                        pieces[name].append(widen(getattr(out, name), width))
                done += len(chunk)
        if done == len(rest):
            break
        rest = rest.select(slice(done, None))  # what did not fit, and what follows it
    return {name: torch.cat(parts) for name, parts in pieces.items()}


def widen(column: Tensor, width: int) -> Tensor:
    """Back to the batch's width after `trim`; row columns stay."""
    if column.ndim == 1 or column.shape[1] == width:
        return column
    return torch.nn.functional.pad(column, (0, width - column.shape[1]))


def fill(batch: Batch, policy: Policy, needs: frozenset[str], *, room: Room | None = None) -> Batch:
    """The batch with `old_logprobs`, `ref_logprobs` and `old_values` where `needs` names them.

    The old log-probabilities come from the training forward, not from the sampler: only so are ratios exactly 1
    before the first update.
    """
    filled: dict[str, Any] = {}
    old = {"logprobs"} if "old_logprobs" in needs else set()
    old |= {"values"} if "old_values" in needs else set()
    if old and len(batch):
        filled = {f"old_{name}": column for name, column in answer(policy, batch, frozenset(old), room=room).items()}
    if "ref_logprobs" in needs and len(batch) and batch.ref_logprobs is None:
        with policy.reference():
            filled["ref_logprobs"] = answer(policy, batch, frozenset({"logprobs"}), room=room)["logprobs"]
    if not len(batch):
        names = needs & {"old_logprobs", "ref_logprobs", "old_values"}
        filled = {name: batch.rewards.new_zeros(batch.tokens.shape) for name in names}
    return replace(batch, **filled)


def only(batch: Batch, needs: frozenset[str]) -> Batch:
    """The batch as an optimizer may see it: columns that it does not name in `needs` are None."""
    hidden: dict[str, Any] = dict.fromkeys({"old_logprobs", "ref_logprobs", "old_values"} - needs)
    return replace(batch, **hidden)


# --- rows that are known again ----------------------------------------------------------------------------------------

Key = tuple[int, bytes]
"""Where a row's completion begins, and what the row says."""

Known = dict[Key, Tensor]
"""A number for each token of a row's completion, by the row."""


def keys(batch: Batch) -> list[Key]:
    """By these, rows are known again in another batch."""
    starts = (batch.attend & ~batch.mask).sum(1).tolist()
    ends = batch.attend.sum(1).tolist()
    rows = batch.tokens.cpu()
    return [(s, row[:e].numpy().tobytes()) for s, e, row in zip(starts, ends, rows, strict=True)]


def key_of(prompt: Sequence[int], completion: Sequence[int]) -> Key:
    """The key that a row of this prompt and completion has."""
    return len(prompt), torch.tensor([*prompt, *completion]).numpy().tobytes()


def known_rows(batch: Batch, column: Tensor) -> Known:
    """A column's numbers (N, T), row by row."""
    kept = column.cpu()
    return {key: row[mask] for key, row, mask in zip(keys(batch), kept, batch.mask.cpu(), strict=True)}


def known_column(batch: Batch, known: Known) -> Tensor:
    """The column (N, T) of a batch whose rows are all known; 0 outside of their completions."""
    column = torch.zeros(batch.tokens.shape)
    rows = [known[key] for key in keys(batch)]
    if rows:
        column = column.to(rows[0].dtype)
        column[batch.mask.cpu()] = torch.cat(rows)
    return column.to(batch.tokens.device)
