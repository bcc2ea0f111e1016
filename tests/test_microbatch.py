"""Memory that does not suffice: micro-batches are halved and tried again, and the result is the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Alert, Batch, Forward, RunError, processes
from alignzoo.batching import answer, collate, fill, only
from alignzoo.interfaces import Optimizer
from alignzoo.microbatch import MicroBatcher, cut, is_out_of_memory
from alignzoo.schedule import Schedule
from alignzoo.testing import toy_batch, toy_groups, toy_policy
from alignzoo.testing.world import ToyPolicy
from alignzoo.torch_optimizers import torch_optimizer
from alignzoo.training.update import Deferred, update
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_preference.dpo import DPO
from rounding import EXACT
from toy_run import same, train


class Small(ToyPolicy):
    """Has memory for so many tokens, without gradient and with one, in the forward pass or in the backward pass."""

    def __init__(self, limit: int, *, backward: bool = False, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.drift(0.1, 1)
        self.limit, self.late, self.error = limit, backward, error
        self.refused: list[int] = []

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        size = int(batch.attend.sum())
        out = super().forward(batch, columns)
        if size <= self.limit:
            return out
        if not self.late:
            self._refuse(size)
        if torch.is_grad_enabled() and out.logprobs is not None:
            out.logprobs.register_hook(lambda gradient: self._refuse(size))
        return out

    def _refuse(self, size: int) -> None:
        self.refused.append(size)
        raise self.error(f"CUDA out of memory. Tried to allocate {size} GiB")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("optimizer", [GRPO(epochs=1), GRPO(epochs=2), PPO(epochs=1), DPO()], ids=str)
def test_halved_micro_batches_give_the_same_run(
    float64: None, optimizer: Optimizer, backward: bool, tmp_path: Path
) -> None:
    roomy, small = Small(1 << 30), Small(35, backward=backward)
    expected, found = train(roomy, optimizer, tmp_path / "roomy"), train(small, optimizer, tmp_path / "small")
    same(roomy, small)
    for ours, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        assert ours == pytest.approx(theirs, rel=EXACT, abs=EXACT)
    assert not roomy.refused and not expected["told"]
    assert len(small.refused) >= 2  # halved more than once
    [(step, alert)] = found["told"]  # and told of once
    assert (step, alert.kind) == (1, "memory")
    assert f"rows and {small.refused[0]} tokens: it goes on with" in alert.message
    begins = f"schedule.micro_tokens = {small.refused[0] // 2} begins there"
    assert begins in alert.message
    [line] = found["warnings"]
    assert (line["kind"], line["step"]) == ("memory", 1)


def test_the_setting_that_the_warning_names_begins_there(tmp_path: Path) -> None:
    small = Small(35)
    found = train(small, GRPO(epochs=1), tmp_path / "small", micro_tokens=17)
    assert not small.refused and not found["told"]


def test_a_run_that_stops_at_any_warning_does_not_stop_for_memory(tmp_path: Path) -> None:
    found = train(Small(35), GRPO(epochs=1), tmp_path / "any", stop_on=("any",))
    assert len(found["told"]) == 1 and found["outcome"].steps == 3 and not found["outcome"].stopped


def test_observers_are_heard_beside_memory(tmp_path: Path) -> None:
    found = train(
        Small(35),
        GRPO(epochs=1),
        tmp_path / "any",
        observe=lambda report: [Alert("odd", "It is odd.")],
        stop_on=("odd",),
    )
    assert [alert.kind for _, alert in found["told"]] == ["odd", "memory"]
    assert found["outcome"].stopped == "odd: It is odd. (stop_on)" and found["outcome"].steps == 1


@pytest.mark.parametrize("backward", [False, True])
def test_a_row_that_does_not_fit_is_an_error_that_says_what_to_do(backward: bool, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a micro-batch of 1 row and \d+ tokens, which cannot be made smaller: use sho"):
        train(Small(3, backward=backward), GRPO(epochs=1), tmp_path / "run")


def test_a_group_that_may_not_be_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a micro-batch of 2 rows of a group and \d+ tokens") as caught:
        train(Small(9, backward=True), DPO(), tmp_path / "run")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_answers_without_gradient_are_halved_too() -> None:
    batch = collate(toy_groups())
    alerts: list[Alert] = []
    small = Small(20)
    batcher = MicroBatcher(small, told=alerts.append)
    found = answer(small, batch, frozenset({"logprobs", "scores"}), batcher=batcher)
    expected = answer(Small(1 << 30), batch, frozenset({"logprobs", "scores"}))
    for name, column in expected.items():
        torch.testing.assert_close(found[name], column)
    assert len(alerts) == 1 and batcher.tokens <= 20


def test_an_update_begins_with_its_largest_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, optimizer, schedule = Small(1 << 30), GRPO(), Schedule()
    batch = fill(collate(toy_groups()[::-1]), policy, optimizer.needs)
    prepared = optimizer.prepare(only(batch, optimizer.needs))
    expected = answer(policy, prepared, frozenset({"logprobs"}))["logprobs"]
    sizes: list[int] = []
    forward = policy.forward
    monkeypatch.setattr(
        policy, "forward", lambda part, columns: sizes.append(int(part.attend.sum())) or forward(part, columns)
    )
    policy.optimize(partial(torch_optimizer, schedule, policy.device))
    done = update(policy, optimizer, prepared, 0.1, schedule, MicroBatcher(policy, rows=4), Deferred())
    assert len(sizes) > 3 and sizes == sorted(sizes, reverse=True) and sum(sizes) == int(prepared.attend.sum())
    in_order = [int(part.attend.sum()) for part in cut(prepared, 4, couples="row")]
    assert sizes != in_order, "nothing was told apart"
    assert sorted(done.logprobs) == sorted(prepared.row.tolist())
    for place, row in enumerate(prepared.row.tolist()):
        torch.testing.assert_close(done.logprobs[row], expected[place, : len(done.logprobs[row])])


def test_outside_of_a_run_python_warns() -> None:
    small = Small(20)
    with pytest.warns(UserWarning, match="out of memory with a micro-batch of 18 rows"):
        answer(small, collate(toy_groups()), frozenset({"logprobs"}))


def test_other_errors_are_not_touched() -> None:
    odd = Small(20, error=ValueError)
    with pytest.raises(ValueError, match="Tried to allocate"):
        answer(odd, collate(toy_groups()), frozenset({"logprobs"}))
    assert len(odd.refused) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
    ids=str,
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_says_so_where_the_machine_has_no_more() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_what_fits_is_found_out_together_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 of two has room; the other, which is played here, has not at first: both take smaller passes."""
    batch = toy_batch([4] * 8, group=range(8), rewards=[0.0] * 8)
    other = iter([True, False])
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 0)
    monkeypatch.setattr(processes, "any_of", lambda mine: next(other) or mine)
    halves = iter([20, 10, 10])
    monkeypatch.setattr(processes, "least_positive", lambda mine: next(halves))
    batcher = MicroBatcher(toy_policy(), tokens=20)
    assert not batcher.agreed
    tried: list[int] = []
    rounds = batcher.agree(lambda one: tried.append(len(one.batch)), batch)
    # 5 tokens a row, 4 rows a process: 4 rows in 20 tokens; then 2 and 2 in 10
    assert tried == [4, 2] and [len(each.batch) for each in rounds] == [2, 2] and batcher.agreed


def test_one_that_has_no_room_makes_all_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = toy_batch([4] * 8, group=range(8), rewards=[0.0] * 8)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 0)
    monkeypatch.setattr(processes, "any_of", lambda mine: mine)
    monkeypatch.setattr(processes, "least_positive", lambda mine: mine)
    batcher = MicroBatcher(toy_policy(), tokens=20, told=lambda alert: None)

    def attempt(one: Any) -> None:
        with batcher.trying(one.batch):
            if len(one.batch) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    assert [len(each.batch) for each in batcher.agree(attempt, batch)] == [1, 1, 1, 1]
    assert batcher.tokens == 5
