"""The passes that each of several processes makes in an update, and the gradients that all of them add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from alignzoo import Batch, Forward, processes
from alignzoo.microbatch import MicroBatcher
from alignzoo.schedule import Schedule
from alignzoo.testing.measure import case
from alignzoo.testing.world import ToyPolicy, toy_groups
from alignzoo.training.update import Deferred, update
from alignzoo.traits import traits_of

COUNT = 3


class Counted(ToyPolicy):
    """Writes down its passes, and takes no step."""

    calls: list[str]

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        self.calls.append("forward")
        return super().forward(batch, columns)

    def backward(self, loss: torch.Tensor) -> None:
        self.calls.append("backward")
        loss.backward()  # type: ignore[no-untyped-call]

    def drop_gradients(self) -> None:
        """They are added up."""

    def step(self, lr: float, clip: float) -> float:
        return 0.0


def passes(policy: Any, part: Any, batch: Batch, rank: int, count: int, patch: pytest.MonkeyPatch) -> list[str]:
    """What one of so many processes does in an update; what it would exchange is what it has itself."""
    patch.setattr(processes, "count", lambda: count)
    patch.setattr(processes, "index", lambda: rank)
    for name in ("least_positive", "any_of", "total"):
        patch.setattr(processes, name, lambda value: value)
    policy.__class__, policy.calls = Counted, []
    batcher = MicroBatcher(policy, rows=2)
    batcher.agreed = True
    update(policy, part, batch, 1e-3, Schedule(), batcher, Deferred())
    return policy.calls


def check(part: Any, sizes: Sequence[int], patch: pytest.MonkeyPatch) -> None:
    """An optimizer's three processes make the same passes of these groups, which leave shares uneven or one process
    with nothing but company, and their gradients add up to those of one."""
    made = case(part, toy_groups(0, sizes=sizes, columns=_columns(part)))
    prepared = part.prepare(made.batch)
    if not len(prepared):
        return
    calls = [passes(made.policy, part, prepared, rank, COUNT, patch) for rank in range(COUNT)]
    together = _gradients(made.policy)
    passes(made.policy, part, prepared, 0, 1, patch)
    assert calls[0] and calls.count(calls[0]) == COUNT
    for name, gradient in _gradients(made.policy).items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-5, atol=1e-7)


def _columns(part: Any) -> list[str]:
    given = traits_of(part).columns
    return [f"{name}={','.join(map(str, values))}" if values else name for name, values in given.items()]


def _gradients(policy: ToyPolicy) -> dict[str, torch.Tensor]:
    """The sums of all processes, which are forgotten."""
    found = {name: w.grad.clone() for name, w in policy.weights.items() if w.grad is not None}
    for weight in policy.weights.values():
        weight.grad = None
    return found
