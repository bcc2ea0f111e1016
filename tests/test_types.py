"""The batch: its shapes, and the ways to take a part of it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from alignzoo import Batch
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
    assert [rows(part) for part in batch.chunks(size, couples=couples)] == expected


def test_group_sizes_and_ungroup(batch: Batch) -> None:
    assert batch.group_sizes().tolist() == [2, 3, 1]
    assert batch.ungroup().group_sizes().tolist() == [1] * 6
    assert batch.group_sizes().tolist() == [2, 3, 1]


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
