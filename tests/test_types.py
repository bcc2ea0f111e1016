"""The batch: its shapes, and the ways to take a part of it."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from alignzoo import Batch
from alignzoo.microbatch import cut
from alignzoo.testing import toy_batch


@pytest.fixture
def batch() -> Batch:
    """Groups of 2, 3 and 1 rows; a row's reward is its number."""
    made = toy_batch([1, 2, 3, 1, 2, 3], group=[5, 5, 2, 2, 2, 9], rewards=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    return replace(made, parts={"a": made.rewards * 10}, extra={"tokenwise": made.mask.float(), "row": made.rewards})


def rows(batch: Batch) -> list[int]:
    return batch.rewards.int().tolist()


def test_select_takes_every_column_alike(batch: Batch) -> None:
    for chosen in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False, False, False])):
        part = batch.select(chosen)
        assert rows(part) == [1, 2] and len(part) == 2
        assert part.parts["a"].tolist() == [10, 20]
        assert part.extra["tokenwise"].tolist() == batch.extra["tokenwise"][1:3].tolist()
        assert part.group.tolist() == [5, 2]
        assert part.old_logprobs is None
    assert rows(batch.select(torch.tensor([4, 0]))) == [4, 0]


def test_a_batch_is_immutable(batch: Batch) -> None:
    with pytest.raises(FrozenInstanceError):
        batch.rewards = batch.rewards + 1


def test_split_in_order_never_goes_through_a_group(batch: Batch) -> None:
    assert [rows(part) for part in batch.split(1)] == [[0, 1], [2, 3, 4], [5]]
    assert [rows(part) for part in batch.split(2)] == [[0, 1, 2, 3, 4], [5]]
    assert [rows(part) for part in batch.split(0)] == [[0, 1, 2, 3, 4, 5]]
    assert [rows(part) for part in batch.split(99)] == [[0, 1, 2, 3, 4, 5]]


def test_split_at_random_repeats_and_keeps_groups_whole(batch: Batch) -> None:
    orders = set()
    for seed in range(20):
        assert next(batch.split(3, rng=torch.Generator().manual_seed(seed))) is batch  # all at once: nothing to order
        parts = [rows(part) for part in batch.split(1, rng=torch.Generator().manual_seed(seed))]
        assert sorted(parts) == [[0, 1], [2, 3, 4], [5]]
        assert parts == [rows(part) for part in batch.split(1, rng=torch.Generator().manual_seed(seed))]
        orders.add(str(parts))
    assert len(orders) == 6


def test_split_of_nothing_is_nothing(batch: Batch) -> None:
    assert list(batch.select(slice(0, 0)).split(2)) == []


@pytest.mark.parametrize(
    ("size", "couples", "expected"),
    [
        (2, "row", [[0, 1], [2, 3], [4, 5]]),
        (4, "row", [[0, 1, 2, 3], [4, 5]]),
        (2, "group", [[0, 1], [2, 3, 4], [5]]),  # a group larger than the micro-batch stays whole
        (4, "group", [[0, 1], [2, 3, 4, 5]]),
        (5, "group", [[0, 1, 2, 3, 4], [5]]),
        (2, "minibatch", [[0, 1, 2, 3, 4, 5]]),
        (0, "row", [[0, 1, 2, 3, 4, 5]]),
        (6, "row", [[0, 1, 2, 3, 4, 5]]),
    ],
)
def test_chunks(batch: Batch, size: int, couples: str, expected: list[list[int]]) -> None:
    assert [rows(part) for part in cut(batch, size, couples=couples)] == expected


@pytest.mark.parametrize(
    ("tokens", "couples", "expected"),
    [
        # Prompts of 3, 1 and 4 tokens; groups of 3+2+1 = 6, 1+5+2+1 = 9 and 4+2 = 6 tokens, their prompts read once.
        (21, "row", [[0, 1, 2, 3, 4, 5]]),
        (20, "row", [[0, 1, 2, 3, 4], [5]]),
        (15, "group", [[0, 1, 2, 3, 4], [5]]),
        (14, "group", [[0, 1], [2, 3, 4], [5]]),
        (8, "group", [[0, 1], [2, 3, 4], [5]]),  # the middle one is larger, and stays whole
        (8, "row", [[0, 1], [2], [3, 4], [5]]),  # rows of 6, 3 and 2 tokens, each with a prompt of its own
        (9, "row", [[0, 1], [2, 3, 4], [5]]),  # a group that fits is not split: its prompt would be read twice
        (1, "row", [[0], [1], [2], [3], [4], [5]]),
        (1, "minibatch", [[0, 1, 2, 3, 4, 5]]),
    ],
)
def test_chunks_by_tokens(tokens: int, couples: str, expected: list[list[int]]) -> None:
    prompts, completions = torch.tensor([3, 3, 1, 1, 1, 4])[:, None], torch.tensor([2, 1, 5, 2, 1, 2])[:, None]
    position = torch.arange(6)
    attend = position < prompts + completions
    ragged = Batch(
        tokens=attend.long(),
        attend=attend,
        mask=attend & (position >= prompts),
        group=torch.tensor([0, 0, 1, 1, 1, 2]),
        rewards=torch.arange(6.0),
        weights=torch.ones(6),
    )
    assert [rows(part) for part in cut(ragged, tokens=tokens, couples=couples)] == expected
    assert [rows(part) for part in cut(ragged, 1, tokens=tokens, couples="row")] == [[0], [1], [2], [3], [4], [5]]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (8, [8]),
        (7, [4, 4]),  # not 7 and 1
        (6, [4, 4]),
        (3, [3, 3, 2]),
        (2, [2, 2, 2, 2]),
    ],
)
def test_chunks_are_even(tokens: int, expected: list[int]) -> None:
    one = torch.ones(8, 1)
    batch = Batch(one.long(), one.bool(), one.bool(), torch.arange(8), torch.arange(8.0), torch.ones(8))
    assert [len(part) for part in cut(batch, tokens=tokens)] == expected


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_chunk_is_as_small_as_their_number_allows(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (9, 1), generator=rng)
    real = torch.arange(8) < lengths
    batch = Batch(real.long(), real, real, torch.arange(9), torch.arange(9.0), torch.ones(9))
    found = [int(part.attend.sum()) for part in cut(batch, tokens=12)]
    whole = [part for count in range(9) for part in itertools.combinations(range(1, 9), count)]
    sums = [[int(lengths[a:b].sum()) for a, b in itertools.pairwise([0, *cuts, 9])] for cuts in whole]
    within = [each for each in sums if max(each) <= 12]
    assert len(found) == min(map(len, within))
    assert max(found) == min(max(each) for each in within if len(each) == len(found))


def test_group_sizes(batch: Batch) -> None:
    assert batch.group_sizes().tolist() == [2, 3, 1]


def test_a_row_keeps_its_number_and_shares_its_groups_prompt_unless_told_otherwise(batch: Batch) -> None:
    assert batch.row.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(batch.prompt, batch.group)
    chosen = batch.select(torch.tensor([4, 0, 3]))
    assert chosen.row.tolist() == [4, 0, 3]
    again = next(iter(replace(chosen, weights=torch.zeros(3)).split(0)))
    assert again.row.tolist() == [4, 0, 3]


def test_answers_of_other_roles_stand_under_their_columns_names(batch: Batch) -> None:
    shape = batch.tokens.shape
    filled = batch.answered({"teacher_logprobs": torch.ones(shape), "ref_logprobs": torch.zeros(shape)})
    assert filled["teacher_logprobs"].sum() == batch.tokens.numel() and filled.ref_logprobs is not None
    assert filled.select(slice(0, 2))["teacher_logprobs"].shape == (2, shape[1])
    taken = filled.answered({"teacher_logprobs": None, "ref_logprobs": None})
    assert not taken.answers and taken.ref_logprobs is None
    with pytest.raises(KeyError, match="'teacher_logprobs' here: an optimizer sees the columns that its `needs` names"):
        taken["teacher_logprobs"]
    with pytest.raises(ValueError, match=r"answers.teacher_logprobs has shape \(3,\)"):
        batch.answered({"teacher_logprobs": torch.ones(3)})


def test_to_moves_every_column(batch: Batch) -> None:
    moved = batch.to("meta")
    columns = (moved.tokens, moved.weights, moved.parts["a"], moved.extra["tokenwise"])
    assert {column.device.type for column in columns} == {"meta"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rewards": torch.zeros(5)}, r"rewards has shape \(5,\), expected \(6,\) or \(6, 4\)"),
        ({"mask": torch.ones(6, 3, dtype=torch.bool)}, r"mask has shape \(6, 3\)"),
        ({"parts": {"a": torch.zeros(2)}}, r"parts.a has shape \(2,\)"),
        ({"extra": {"b": torch.zeros(6, 4, 1)}}, r"extra.b has shape \(6, 4, 1\)"),
        ({"tokens": torch.zeros(6, dtype=torch.long)}, r"tokens must be \(N, T\), got \(6,\)"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_column_and_what_was_expected(
    batch: Batch, columns: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(batch, **columns)
