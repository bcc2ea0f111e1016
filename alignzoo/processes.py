"""One process or many: whole groups are dealt out, and what every process needs of the others is gathered.

`accelerate launch` (or torchrun) starts the processes; the policy joins them into a group. Everything here is the
identity when there is only one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def count() -> int:
    """How many processes train together, by what the launcher tells them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Which of them this is; process 0 writes the files."""
    return int(os.environ.get("RANK", "0"))


def dealt(items: Sequence[T]) -> list[T]:
    """This process's share: as many in a row as every other has, or one more or less."""
    size, more = divmod(len(items), count())
    start = index() * size + min(index(), more)
    return list(items[start : start + size + (index() < more)])


def gather(share: Sequence[T]) -> list[T]:
    """All processes' shares one after the other: in the order from which `dealt` took them, whatever each item has
    become."""
    return [item for each in everyones(list(share)) for item in each]


def of_first(value: T) -> T:
    """What the first process has, on all of them."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def everyones(value: T) -> list[T]:
    """What each process has, by its number, on all of them."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def least_positive(value: int) -> int:
    """The smallest of all processes' values, but for 0; 0 where all have that."""
    return min((each for each in everyones(value) if each > 0), default=0)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of all processes, in place."""
    if count() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def total(values: dict[str, float]) -> dict[str, float]:
    """Sums over all processes of numbers that each has its part of."""
    if count() == 1:
        return values
    shares = everyones(values)
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: sum(share.get(name, 0.0) for share in shares) for name in names}

