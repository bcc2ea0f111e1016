"""Steps that are generated ahead: by the policy of so many updates ago, whatever the time that anything takes."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import alignzoo
from alignzoo import AlignzooError, Completion, Decoding, ModelError, Prompt, RewardError, RunError, Score
from alignzoo import functional as fn
from alignzoo.evaluation.heldout import Heldout
from alignzoo.interfaces import CheckContext, Policy
from alignzoo.rewards import WeightedReward
from alignzoo.schedule import Evaluation, Schedule
from alignzoo.testing.optimizers.resume import ToySampler
from alignzoo.testing.stopping import ToyReward
from alignzoo.testing.world import ToyPolicy, toy_groups
from alignzoo.training import ahead, loop
from alignzoo.training.importance import importance_weights
from alignzoo.training.journal import Journal
from alignzoo.training.rollout import Rollout
from alignzoo.training.stage import Run
from alignzoo.training.waiting import dumped, loaded
from alignzoo.types import Group
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_preference.dpo import DPO
from alignzoo_replay import ReplaySampler
from alignzoo_samplers import DatasetSampler
from toy_run import lines

STEPS = 5
PROMPTS = [Prompt(f"prompt {i}", info={"number": i}) for i in range(6)]
FILES = ("metrics.jsonl", "samples.jsonl", "warnings.jsonl")


def stage_of(out: Path, policy: ToyPolicy, **changes: Any) -> Run:
    out.mkdir(exist_ok=True)
    schedule: dict[str, Any] = {"steps": STEPS, "prompts": 3, "lr": 0.02, "save_every": 2, "samples_every": 1}
    parts: dict[str, Any] = {"sampler": ToySampler(), "optimizer": GRPO(kl=0.05)}
    reward = changes.pop("reward", ToyReward())
    parts |= {
        name: changes.pop(name)
        for name in ("sampler", "optimizer", "observe", "interrupted", "warn")
        if name in changes
    }
    return Run(
        name="toy",
        prompts=PROMPTS,
        heldout=Heldout(Evaluation(prompts=0), (), (), (), None),
        policy=policy,
        rewards=(WeightedReward("toy", reward),),
        schedule=Schedule(**schedule | changes),
        seed=0,
        journal=Journal(out, "toy"),
        checkpoints=out / "checkpoints",
        **parts,
    )


def train(out: Path, *, resume: bool = False, **changes: Any) -> ToyPolicy:
    policy = ToyPolicy()
    loop.run(stage_of(out, policy, **changes), resume=resume)
    assert not any(each.name == "alignzoo-ahead" for each in threading.enumerate())
    return policy


@dataclass(frozen=True)
class Stale:
    """The oracle: each step is generated as it begins, by a policy with the weights of so many updates ago."""

    ahead: int
    history: list[Mapping[str, torch.Tensor]]
    """The weights after 0, 1, ... updates."""
    n: int = 3
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        version = max(0, len(self.history) - 1 - self.ahead)
        former = ToyPolicy()
        former.restore(self.history[version])

        def noted(each: Completion) -> Completion:
            return replace(each, policy_version=version)

        groups = former.generate(prompts, self.n, seeds=seeds)
        return [replace(group, completions=tuple(map(noted, group.completions))) for group in groups]


@dataclass(frozen=True)
class Slow:
    """Takes a while now and then; `ToyReward`'s scores."""

    costs_of: dict[str, float] = field(default_factory=lambda: {"judge/requests": 0.0})

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        time.sleep(random.choice((0, 0, 0.03)))
        self.costs_of["judge/requests"] += len(groups)
        return ToyReward().score(groups, policy)

    def costs(self) -> Mapping[str, float]:
        return dict(self.costs_of)


def state(policy: ToyPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state().items()}


@pytest.mark.parametrize(
    ("k", "how"),
    [
        (1, {}),
        (1, {"importance_cap": 1.05, "importance_mode": "token_mask"}),
        (2, {"importance_cap": 1.2, "importance_mode": "sequence_truncate", "minibatch": 2}),
    ],
)
def test_it_is_the_synchronous_run_with_the_stale_policy(k: int, how: Mapping[str, Any], tmp_path: Path) -> None:
    expected = ToyPolicy()
    history: list[Mapping[str, torch.Tensor]] = [state(expected)]
    stage = stage_of(tmp_path / "oracle", expected, sampler=Stale(k, history), **how)
    loop.run(replace(stage, observe=lambda report: history.append(state(expected)) or ()))
    found = train(tmp_path / "ahead", ahead=k, reward=Slow(), observe=lambda report: time.sleep(0.01) or (), **how)
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-6, atol=1e-6)
    metrics, oracle = lines(tmp_path / "ahead" / "metrics.jsonl"), lines(tmp_path / "oracle" / "metrics.jsonl")
    for step, (mine, theirs) in enumerate(zip(metrics, oracle, strict=True)):
        shared = mine.keys() & theirs.keys() - {"kl"}
        assert shared >= {"loss", "grad_norm", "reward/mean", "tokens/generated", "tokens/trained"}
        assert {name: mine[name] for name in shared} == pytest.approx({name: theirs[name] for name in shared}, abs=1e-6)
        assert mine["staleness/mean"] == mine["staleness/max"] == min(step, k)
        assert mine["staleness/tokens"] == (mine["tokens/generated"] if step else 0)
        assert (mine["staleness/kl"] > 1e-6) == (mine["staleness/ratio"] > 1.001) == (step > 0)
        assert "kl" in mine  # of the policy that generated, which had not moved in the first k + 1 steps
        assert (abs(mine["kl"]) > 1e-9) == (step > k)
    costs = [line["judge/requests"] for line in lines(tmp_path / "ahead" / "costs.jsonl")]
    assert costs == [3.0] * STEPS
    waits = lines(tmp_path / "ahead" / "seconds.jsonl")
    assert all({"seconds/wait", "seconds/sample", "seconds/score"} <= line.keys() for line in waits)


@dataclass(frozen=True)
class Fails:
    """Scores as `ToyReward`, and at its call of this number does something else."""

    call: int
    act: Callable[[], None]
    calls: list[int] = field(default_factory=list)

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        self.calls.append(len(groups))
        if len(self.calls) == self.call:
            self.act()
        return ToyReward().score(groups, policy)


def refuse() -> None:
    raise ValueError("the judge is out of order")


def test_what_a_reward_raises_ends_the_run_as_its_step_comes_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    train(tmp_path / "whole", ahead=2)
    with pytest.raises(RewardError, match="ValueError: the judge is out of order"):
        train(tmp_path / "broken", ahead=2, reward=Fails(5, refuse))
    assert len(lines(tmp_path / "broken" / "metrics.jsonl")) == 4
    shutil.copytree(tmp_path / "broken", tmp_path / "early")
    told: list[str] = []
    train(tmp_path / "broken", ahead=2, resume=True, warn=lambda stage, step, alert: told.append(alert.message))
    assert len(told) == 1 and "the checkpoint has no completions of step 5" in told[0]
    assert lines(tmp_path / "broken" / "metrics.jsonl")[-1]["staleness/max"] == 0
    shutil.rmtree(tmp_path / "early" / "checkpoints" / "step-000004")  # in that of the second step nothing is missing
    train(tmp_path / "early", ahead=2, resume=True)
    for file in FILES:
        assert (tmp_path / "early" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_leaves_what_waits_in_the_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "whole", ahead=2)
    asked: list[bool] = []
    former = signal.signal(signal.SIGINT, lambda *told: asked.append(True))
    try:
        with pytest.raises(loop.Interrupted, match=r"stopped after step \d of 5"):
            train(tmp_path / "broken", ahead=2, reward=Fails(4, interrupt), interrupted=lambda: bool(asked))
    finally:
        signal.signal(signal.SIGINT, former)
    asks = Fails(0, refuse)
    train(tmp_path / "broken", ahead=2, reward=asks, resume=True)
    assert len(asks.calls) < STEPS - len(lines(tmp_path / "broken" / "metrics.jsonl")) + 3  # what waited has its scores
    for file in FILES:
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_a_second_ctrl_c_does_not_wait_for_what_is_at_work(tmp_path: Path) -> None:
    leave = threading.Event()
    stage = stage_of(tmp_path, ToyPolicy(), ahead=1, reward=Fails(3, lambda: leave.wait(20) and None))

    def stop(report: Any) -> Any:
        if report.step == 2:
            raise KeyboardInterrupt
        return ()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.run(replace(stage, observe=stop))
    assert not leave.is_set() and time.monotonic() - start < 15
    leave.set()


def test_a_checkpoint_without_ahead_is_as_ever_and_a_run_tells_that_nothing_weighs_stale_tokens(tmp_path: Path) -> None:
    train(tmp_path / "plain")
    assert "waiting" not in (tmp_path / "plain" / "checkpoints" / "step-000004" / "state.json").read_text()
    assert not any(
        name.startswith("staleness") for line in lines(tmp_path / "plain" / "metrics.jsonl") for name in line
    )
    train(tmp_path / "ahead", ahead=1)
    assert '"waiting": [' in (tmp_path / "ahead" / "checkpoints" / "step-000004" / "state.json").read_text()
    assert [line["kind"] for line in lines(tmp_path / "ahead" / "warnings.jsonl")] == ["ahead"]
    assert not ahead.alerts(Schedule(ahead=1, importance_cap=2.0), GRPO()) and not ahead.alerts(Schedule(), GRPO())


@dataclass(frozen=True)
class AsksReference(ToyReward):
    asks_roles: ClassVar[tuple[str, ...]] = ("ref",)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"sampler": DatasetSampler()}, "DatasetSampler takes completions from the data"),
        ({"reward": AsksReference()}, "AsksReference asks the policy's role 'ref'"),
        ({"max_staleness": 1}, "max_staleness is 1, so that nothing would be left"),
    ],
)
def test_what_cannot_be_generated_ahead_is_refused(parts: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"schedule.ahead is 2, but .*{why}"):
        loop.run(stage_of(tmp_path, ToyPolicy(), ahead=2, **parts))
    assert not (tmp_path / "metrics.jsonl").exists()


class Bare:
    """A policy of somebody who knows nothing of copies."""

    device = torch.device("cpu")

    def optimize(self, make: Any) -> None: ...


@dataclass(frozen=True)
class Spread(ToyReward):
    collective: ClassVar[bool] = True


def test_policies_without_a_copy_and_rewards_that_all_processes_ask_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare: Any = Bare()
    with pytest.raises(RunError, match=r"Bare has no method behaviour\(\).*: set schedule.ahead to 0"):
        loop.run(stage_of(tmp_path, bare, ahead=1))
    schedule, spread = Schedule(ahead=1), (WeightedReward("toy", Spread()),)
    ahead.check(schedule, GRPO(), ToySampler(), spread)
    monkeypatch.setenv("WORLD_SIZE", "2")
    ahead.check(schedule, GRPO(), ToySampler(), (WeightedReward("toy", ToyReward()),))
    with pytest.raises(RunError, match="Spread is spread over the 2 processes"):
        ahead.check(schedule, GRPO(), ToySampler(), spread)


def test_a_policy_that_cannot_be_copied_is_refused_before_its_weights_are_loaded(
    plain_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignzoo_hf.model.spec import HF

    spec, now = HF(str(plain_model), device="cpu"), CheckContext(GRPO().needs, PROMPTS, PROMPTS, True, False, {})
    late, beside = replace(now, ahead=1), replace(spec, engine="vllm")
    with pytest.raises(ModelError, match=r"engine VLLM cannot generate while the policy is trained: .*vllm-server"):
        beside.check(late)
    monkeypatch.setenv("WORLD_SIZE", "2")
    spec.check(late)
    with pytest.raises(ModelError, match=r"sharded over the processes.*set policy.shard=none, or schedule.ahead=0"):
        replace(spec, shard="fsdp").check(late)


@dataclass(frozen=True)
class Mixes(ToySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return policy.generate(prompts, self.n, seeds=seeds, decoding=Decoding(mix=(("ref", 0.5),)))


def test_a_role_that_the_copy_does_not_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no role 'ref'.*step 1 is generated ahead, by a copy .*schedule.ahead=0"):
        train(tmp_path, ahead=1, sampler=Mixes())


@dataclass(frozen=True)
class Does(ToyReward):
    """Does something that is a whole process's first."""

    act: Callable[[], object]

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        self.act()
        return ToyReward().score(groups, policy)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda: os.chdir(os.sep), "changes the working directory while another thread trains .*cwd= of subprocess"),
        (
            lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL),
            "step 1 is generated ahead, in a thread .*signal.alarm",
        ),
    ],
)
def test_what_belongs_to_the_whole_process_is_refused_in_the_thread(
    act: Callable[[], object], why: str, tmp_path: Path
) -> None:
    before = os.getcwd(), os.chdir
    with pytest.raises(AlignzooError, match=why):
        train(tmp_path / "ahead", ahead=1, reward=Does(act))
    assert (os.getcwd(), os.chdir) == before


def test_a_budget_of_operations_needs_a_policy_whose_operations_can_be_counted(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ToyPolicy does not tell the sizes .*the run would never end"):
        train(tmp_path, budget_flops=1e9)


def test_samples_that_nobody_knows_the_likelihood_of_are_refused(tmp_path: Path) -> None:
    class Unknowing(ToyPolicy):
        def go_on(self, *given: Any, **named: Any) -> Any:
            found = super().go_on(*given, **named)
            unknown = [[replace(each, logprobs=(math.nan,) * len(each.tokens)) for each in some] for some in found]
            return unknown

    with pytest.raises(RunError, match="nothing has recorded how likely"):
        loop.run(stage_of(tmp_path, Unknowing(), ahead=1))


def test_stale_completions_are_left_out_and_counted(tmp_path: Path) -> None:
    sampler = ReplaySampler(n=2, replayed=1.0)
    train(tmp_path, sampler=sampler, max_staleness=1, optimizer=GRPO())
    found = lines(tmp_path / "metrics.jsonl")
    assert found[0]["staleness/dropped"] == found[1]["staleness/dropped"] == 0
    assert sum(line["staleness/dropped"] for line in found) > 0
    assert max(line.get("staleness/max", 0) for line in found) == 1
    assert all("reward/abstained" not in line for line in found)


def test_what_waits_comes_back_as_it_was() -> None:
    data = [replace(group.prompt, index=place) for place, group in enumerate(toy_groups(0))]
    data[0] = replace(data[0], info={"a function": len}, media=object())  # the data's own prompts are not written down
    groups = toy_groups(0, columns=("margin",), dense=True)
    groups = [replace(each, prompt=data[place]) for place, each in enumerate(groups)]
    groups[-1] = replace(groups[-1], prompt=Prompt("of the sampler's own", info={"n": 1}))
    kept = [groups[2], replace(groups[1], completions=groups[1].completions[:1], scores=(groups[1].scores or ())[:1])]
    found = loaded(dumped(Rollout(kept, groups), data), data)
    assert found.brought == groups and found.groups == kept
    assert found.groups[0] is found.brought[2]  # by which the runner sees what was selected
    assert [each.prompt.index for each in found.brought] == [*range(len(groups) - 1), None]
    groups[-1] = replace(groups[-1], prompt=Prompt("?", info={"a function": len}))
    with pytest.raises(RunError, match=r"cannot be written to a checkpoint.*texts and numbers alone"):
        dumped(Rollout([], groups), data)


def test_importance_weights_by_hand() -> None:
    # r = e^0.7 = 2.013753, e^-0.2 = 0.818731 and e^0.1 = 1.105171; their product is e^0.6 = 1.822119.
    old, sampled = torch.tensor([[0.0, -0.3, -1.2, -0.9, -5.0]]), torch.tensor([[0.0, -1.0, -1.0, -1.0, 0.0]])
    mask = torch.tensor([[False, True, True, True, False]])

    def weights(cap: float, mode: Any) -> list[float]:
        return importance_weights(old, sampled, mask, cap, mode)[0, 1:4].tolist()

    assert weights(2.0, "token_truncate") == pytest.approx([2.0, 0.818731, 1.105171], abs=1e-6)
    assert weights(2.0, "token_mask") == pytest.approx([0.0, 0.818731, 1.105171], abs=1e-6)
    assert weights(2.0, "sequence_truncate") == pytest.approx([1.822119] * 3, abs=1e-6)
    assert weights(1.5, "sequence_truncate") == pytest.approx([1.5] * 3)
    assert weights(2.0, "sequence_mask") == pytest.approx([1.822119] * 3, abs=1e-6)
    assert weights(1.5, "sequence_mask") == [0.0] * 3


def test_a_loss_of_pairs_has_no_weight_of_single_rows(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not speak of single tokens"):
        train(tmp_path, ahead=1, optimizer=DPO(), importance_cap=2.0, importance_mode="sequence_mask")


def test_the_copy_of_a_transformers_policy_stays_as_it_is(plain_model: Path) -> None:
    from alignzoo_hf.model.spec import HF

    for rank, dtype in ((0, "fp32"), (4, "fp32"), (0, "bf16"), (4, "bf16")):
        spec = HF(str(plain_model), max_new_tokens=5, lora_rank=rank, device="cpu", dtype=dtype)
        policy = spec.load(frozenset({"logprobs", "values"}))
        copy, seeds = policy.behaviour(), fn.seeds(2, 0)
        before = policy.generate(PROMPTS[:2], 2, seeds=seeds)
        with torch.no_grad():
            for group in policy.parameters():
                for weight in group["params"]:
                    weight += 0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        assert copy.generate(PROMPTS[:2], 2, seeds=seeds) == before
        after = policy.generate(PROMPTS[:2], 2, seeds=seeds)
        assert after != before
        copy.restore({name: policy.state()[name] for name in copy.state()})
        assert copy.generate(PROMPTS[:2], 2, seeds=seeds) == after
        trained, frozen = ({w.data_ptr() for w in policy.lm.parameters() if w.requires_grad == asks} for asks in (1, 0))
        places = {weight.data_ptr() for weight in copy.lm.parameters()}
        assert frozen <= places and not trained & places


@pytest.mark.slow
def test_a_transformers_policy_is_trained_while_its_copy_generates(plain_model: Path, tmp_path: Path) -> None:
    def run(name: str, k: int) -> list[dict[str, Any]]:
        def length(completions: Sequence[str], **columns: Any) -> list[float]:
            return [float(sum(map(ord, text)) % 97) for text in completions]

        alignzoo.run(
            "grpo",
            policy={"name": "hf", "model": str(plain_model), "max_new_tokens": 6, "device": "cpu"},
            data=[{"prompt": f"{number}"} for number in range(8)],
            reward=length,
            out=tmp_path / name,
            sampler={"n": 3},
            evaluate={"prompts": 2, "greedy": False},
            schedule={"steps": 4, "prompts": 3, "lr": 1e-2, "ahead": k, "eval_every": 2, "importance_cap": 2.0},
            warn=lambda *told: None,
        )
        return lines(tmp_path / name / "metrics.jsonl")

    found = run("one", 1)
    assert [line["staleness/max"] for line in found] == [0, 1, 1, 1]
    assert all(line["importance"] == pytest.approx(1, abs=0.3) for line in found)
    assert run("again", 1) == found
    assert run("plain", 0)[0]["loss"] == pytest.approx(found[0]["loss"], abs=1e-6)
