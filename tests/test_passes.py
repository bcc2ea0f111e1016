"""A step's batch with the columns that are needed: nothing computed twice, and nothing computed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Batch, Forward, Group, Score, Terms
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.interfaces import Optimizer, PolicyInfo
from alignzoo.microbatch import MicroBatcher
from alignzoo.schedule import Schedule
from alignzoo.testing import toy_groups, toy_prompts
from alignzoo.testing.world import ToyPolicy
from alignzoo.training import passes as step_passes
from alignzoo.training.passes import WATCHED, Pass, Passes, Ready
from alignzoo_distillation.bond import BOND
from alignzoo_policy_gradient.gmpo import GMPO
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.reinforce import REINFORCE
from alignzoo_policy_gradient.rloo import RLOO
from alignzoo_preference.dpo import DPO
from rounding import EXACT
from toy_run import lines, train


def ready(
    policy: ToyPolicy, optimizer: Optimizer, groups: list[Group], *, tokens: int = 0, watched: bool = False
) -> Ready:
    made = Passes(policy, Schedule(), MicroBatcher(policy, tokens=tokens))
    columns = WATCHED if watched else frozenset[str]()
    return made.ready(optimizer, collate(groups, version=2), groups, watched=columns)


ONCE = [GRPO(), GRPO(kl=0.0), PPO(epochs=1), PPO(epochs=1, whiten_advantages=False)]


class Counted(ToyPolicy):
    """Counts the rows that go through it: without gradient, with one, and as the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.drift(0.1, 1)
        self.rows = {"filled": 0, "learnt": 0, "reference": 0}

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        kind = "learnt" if torch.is_grad_enabled() else "filled"
        self.rows["reference" if self._answering is self.roles["ref"] else kind] += len(batch)
        return super().forward(batch, columns)


@pytest.fixture
def filled_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes runs fill every column before `prepare`, with a pass of its own."""

    def switch() -> None:
        planned = step_passes.passes

        def all_before(*given: Any) -> tuple[Pass, ...]:
            return tuple(replace(each, how="own") if each.role else each for each in planned(*given))

        monkeypatch.setattr(step_passes, "passes", all_before)

    return switch


@pytest.mark.parametrize("optimizer", ONCE, ids=str)
def test_one_update_needs_one_forward_pass(
    optimizer: Optimizer, filled_first: Callable[[], None], tmp_path: Path
) -> None:
    spared, plain = Counted(), Counted()
    ours = train(spared, optimizer, tmp_path / "spared")
    filled_first()
    theirs = train(plain, optimizer, tmp_path / "plain")
    # Three steps of 12 rows: 36 are learnt from, and answered by the reference.
    assert spared.rows == {"filled": 0, "learnt": 36, "reference": 36}
    assert plain.rows == {"filled": 36, "learnt": 36, "reference": 36}
    for name, tensor in plain.weights.items():
        assert torch.equal(spared.weights[name], tensor), name  # to the last bit
    assert ours["metrics"] == theirs["metrics"]
    assert ours["samples"] == theirs["samples"]
    assert all("kl" in line for line in ours["metrics"])
    assert any("logprobs" in line for line in ours["samples"])


@pytest.mark.parametrize("optimizer", [GRPO(), GRPO(kl=0.0)], ids=str)
def test_in_micro_batches_too(optimizer: Optimizer, filled_first: Callable[[], None], tmp_path: Path) -> None:
    spared, plain = Counted(), Counted()
    ours = train(spared, optimizer, tmp_path / "spared", micro_tokens=20)
    filled_first()
    theirs = train(plain, optimizer, tmp_path / "plain", micro_tokens=20)
    assert spared.rows["filled"] == 0 and plain.rows["filled"] == 36
    for name, tensor in plain.weights.items():
        assert torch.equal(spared.weights[name], tensor), name
    assert ours["metrics"] == theirs["metrics"]


@dataclass(frozen=True)
class Spied(GRPO):
    """Notes the ratios that it sees."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        SEEN.append((batch.old_logprobs - out.logprobs).detach())
        return super().loss(batch, out)


SEEN: list[torch.Tensor] = []


@pytest.mark.parametrize("optimizer", [RLOO(), REINFORCE()], ids=str)
def test_what_was_recorded_serves_a_prepare_that_reads_it(
    float64: None, optimizer: Optimizer, filled_first: Callable[[], None], tmp_path: Path
) -> None:
    spared, plain, vague = Counted(), Counted(), Counted()
    vague.info = PolicyInfo  # type: ignore[method-assign]
    ours = train(spared, optimizer, tmp_path / "spared", micro_tokens=20)
    train(vague, optimizer, tmp_path / "vague", micro_tokens=20)
    filled_first()
    theirs = train(plain, optimizer, tmp_path / "plain", micro_tokens=20)
    assert spared.rows == {"filled": 0, "learnt": 36, "reference": 36}
    assert plain.rows == vague.rows == {"filled": 36, "learnt": 36, "reference": 36}
    for name, tensor in plain.weights.items():
        assert torch.equal(vague.weights[name], tensor), name
        torch.testing.assert_close(spared.weights[name], tensor, rtol=0, atol=EXACT)
    for mine, other in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert mine == pytest.approx(other, rel=EXACT, abs=EXACT)


def test_what_was_recorded_in_an_earlier_step_does_not() -> None:
    policy = Counted()
    groups = [
        replace(group, scores=tuple(Score(float(i)) for i in range(len(group.completions))))
        for group in policy.generate(toy_prompts(), 3, seeds=range(len(toy_prompts())))
    ]

    def changed(**changes: Any) -> list[Group]:
        return [replace(g, completions=tuple(replace(c, **changes) for c in g.completions)) for g in groups]

    older, given = changed(policy_version=1), changed(logprobs=None)
    assert ready(policy, RLOO(), groups, tokens=20).deferred.names
    for others in (older, [groups[0], *older[1:]], given):
        assert not ready(policy, RLOO(), others, tokens=20).deferred.names


@dataclass(frozen=True)
class SpiedRLOO(RLOO):
    """Notes what it sees of the log-probabilities before the update."""

    def prepare(self, batch: Batch) -> Batch:
        prepared = super().prepare(batch)
        SEEN.append(batch.old_logprobs - batch.extra["sampled_logprobs"])
        return prepared

    def loss(self, batch: Batch, out: Forward) -> Terms:
        SEEN.append((batch.old_logprobs - out.logprobs).detach())
        return super().loss(batch, out)


@pytest.mark.parametrize("spied", [Spied(), SpiedRLOO()], ids=["grpo", "rloo"])
def test_before_the_update_ratios_are_exactly_one(spied: Optimizer, tmp_path: Path) -> None:
    SEEN.clear()
    train(Counted(), spied, tmp_path / "run", micro_tokens=20)
    assert len(SEEN) > 3
    assert not any(difference.any() for difference in SEEN)


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        (GRPO(epochs=2), {}),
        (PPO(epochs=2), {}),
        (GRPO(), {"minibatch": 2}),
        (PPO(epochs=1), {"minibatch": 2}),
        (PPO(epochs=1), {"micro_tokens": 20}),  # `prepare` reads them all, and they do not go through at once
    ],
    ids=str,
)
def test_batches_that_are_used_again_are_filled_before(
    optimizer: Optimizer, changes: dict[str, Any], tmp_path: Path
) -> None:
    policy = Counted()
    train(policy, optimizer, tmp_path / "run", **changes)
    assert policy.rows["filled"] == 36
    assert policy.rows["learnt"] == 36 * optimizer.epochs


@dataclass(frozen=True)
class Halved(GRPO):
    """Learns from every other row."""

    def prepare(self, batch: Batch) -> Batch:
        return super().prepare(batch).select(slice(0, None, 2))


@dataclass(frozen=True)
class Reversed(GRPO):
    """Learns from the rows in another order."""

    def prepare(self, batch: Batch) -> Batch:
        prepared = super().prepare(batch)
        return prepared.select(torch.arange(len(prepared) - 1, -1, -1))


@pytest.mark.parametrize("optimizer", [GRPO(), PPO(epochs=1), REINFORCE(), RLOO()], ids=str)
def test_a_minibatch_counts_groups_for_every_algorithm(optimizer: Optimizer, tmp_path: Path) -> None:
    for minibatch, updates in ((1, 4), (2, 2), (3, 2), (4, 1), (0, 1)):
        policy = Stepped()
        train(policy, optimizer, tmp_path / str(minibatch), steps=1, minibatch=minibatch)
        assert policy.steps == updates


class Stepped(Counted):
    """Counts the updates of its weights."""

    steps = 0

    def step(self, lr: float, clip: float) -> float:
        self.steps += 1
        return super().step(lr, clip)


def test_rows_that_are_not_learnt_from_are_measured_all_the_same(tmp_path: Path) -> None:
    policy = Counted()
    found = train(policy, Halved(), tmp_path / "run")
    assert policy.rows == {"filled": 18, "learnt": 18, "reference": 36}  # those that no update answers
    assert all("kl" in line for line in found["metrics"])
    assert all("logprobs" in line and any(line["logprobs"]) for line in found["samples"])


def test_rows_in_another_order_are_known_again(filled_first: Callable[[], None], tmp_path: Path) -> None:
    policy = Counted()
    ours = train(policy, Reversed(), tmp_path / "spared")
    assert policy.rows["filled"] == 0
    filled_first()
    theirs = train(Counted(), Reversed(), tmp_path / "plain")
    assert ours["samples"] == theirs["samples"]
    for mine, other in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert mine == pytest.approx(other, rel=1e-6)


@dataclass(frozen=True)
class Faulty(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        raise ZeroDivisionError("of its own")


def test_an_error_of_prepare_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="of its own"):
        train(Counted(), Faulty(), tmp_path / "run")


def test_the_columns_of_an_algorithm_that_needs_none_stay_away() -> None:
    policy = Counted()
    found = ready(policy, GRPO(kl=0.0), toy_groups())
    assert found.batch.old_logprobs is None and found.deferred.names == {"old_logprobs"}
    assert not any(policy.rows.values())
    found = ready(policy, DPO(), toy_groups())
    assert not found.deferred.names and found.prepared.old_logprobs is None


@pytest.mark.parametrize(("every", "asked", "told"), [(1, 36, [1, 2, 3]), (2, 12, [2]), (0, 0, [])])
def test_how_often_the_kl_is_measured(every: int, asked: int, told: list[int], tmp_path: Path) -> None:
    plain, policy = Counted(), Counted()
    train(plain, GRPO(kl=0.0), tmp_path / "plain")
    found = train(policy, GRPO(kl=0.0), tmp_path / "run", kl_every=every, samples_every=0)
    assert policy.rows == {"filled": 0, "learnt": 36, "reference": asked}
    assert [line["step"] for line in found["metrics"] if "kl" in line] == told
    for name, tensor in plain.weights.items():
        assert torch.equal(policy.weights[name], tensor), name  # it is only watched
    needed = Counted()
    train(needed, GRPO(), tmp_path / "needed", kl_every=every, samples_every=0)
    assert needed.rows["reference"] == 36  # an algorithm that learns from it has it in every step


@pytest.mark.parametrize("part", [BOND, GMPO, GRPO, PPO, REINFORCE, RLOO])
def test_without_a_kl_in_what_is_learnt_the_reference_is_not_asked(float64: None, part: Any, tmp_path: Path) -> None:
    spared, asked = Counted(), Counted()
    train(spared, part(kl=0.0), tmp_path / "spared", kl_every=0, samples_every=0)
    train(asked, part(kl=1e-30), tmp_path / "asked", kl_every=0, samples_every=0)
    assert spared.rows["reference"] == 0 and asked.rows["reference"] > 0
    for name, tensor in asked.weights.items():
        torch.testing.assert_close(spared.weights[name], tensor, rtol=0, atol=EXACT)


def test_a_kl_is_of_all_rows_or_not_told(tmp_path: Path) -> None:
    """Rows that `prepare` leaves out are answered only where the KL is measured; elsewhere 0 would pass for theirs."""
    told = train(Counted(), Halved(), tmp_path / "told", kl_every=1)["metrics"]
    silent = train(Counted(), Halved(), tmp_path / "silent", kl_every=0, samples_every=0)["metrics"]
    assert all(abs(line["kl"]) < 1 for line in told)
    assert not [name for line in silent for name in line if name.startswith(("kl", "mismatch"))]


def test_where_samples_are_kept_the_reference_is_asked(tmp_path: Path) -> None:
    found = train(Counted(), GRPO(kl=0.0), tmp_path / "run", kl_every=0, samples_every=2)
    assert [line["step"] for line in found["metrics"] if "kl" in line] == [1, 2, 3]  # the first, each second, the last
    assert all("ref_logprobs" in line for line in found["samples"])


def test_an_empty_batch_is_prepared_as_ever() -> None:
    policy = Counted()
    empty = [replace(group, scores=tuple(replace(s, value=None) for s in group.scores or ())) for group in toy_groups()]
    for optimizer in (GRPO(), PPO(epochs=1)):
        found = ready(policy, optimizer, empty, watched=True)
        assert len(found.prepared) == 0 and not found.deferred.names
    assert not any(policy.rows.values())


def test_kl_of_the_columns_that_come_late(tmp_path: Path) -> None:
    """The KL of the shared vocabulary, from the journal's own samples."""
    found = train(Counted(), GRPO(), tmp_path / "run")
    rows = [line for line in found["samples"] if line["step"] == 2]
    ratios = [torch.tensor(row["logprobs"]) - torch.tensor(row["ref_logprobs"]) for row in rows]
    sums = torch.stack([ratio.sum() for ratio in ratios])
    assert found["metrics"][1]["kl"] == pytest.approx(float(sums.mean()), abs=1e-3)
    k3 = torch.cat([fn.kl_k3(ratio) for ratio in ratios])
    assert found["metrics"][1]["kl/k3/token"] == pytest.approx(float(k3.mean()), abs=1e-3)
    assert lines(tmp_path / "run" / "metrics.jsonl") == found["metrics"]
