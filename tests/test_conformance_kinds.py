"""First-party samplers, policies and tasks keep every law, and each check catches a part that breaks it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from alignzoo import Batch, Completion, Context, Decoding, Forward, Group, Policy, Prompt, StepReport
from alignzoo import functional as fn
from alignzoo.decoding import AS_SET
from alignzoo.interfaces import NO_ROLES, PolicyInfo
from alignzoo.testing import (
    POLICY_CHECKS,
    SAMPLER_CHECKS,
    TASK_CHECKS,
    Check,
    ConformanceError,
    ToyPolicy,
    check_policy,
    check_sampler,
    check_task,
    kind_of,
    parametrize_with_checks,
)
from alignzoo_dynamic import DynamicSampler
from alignzoo_hf.model.spec import HF
from alignzoo_replay import ReplaySampler
from alignzoo_samplers import DatasetSampler, PolicySampler
from alignzoo_tiny.tasks import Safe, Shop, Sort


@dataclass(frozen=True)
class Toy:
    """The toy policy's settings, and which of the broken ones to load."""

    cls: Callable[[], ToyPolicy] = ToyPolicy

    def load(self, needs: frozenset[str], roles: Mapping[str, Any] = NO_ROLES) -> Policy:
        policy = self.cls()
        policy.roles |= {name: other.cls().roles["ref"] for name, other in roles.items()}
        policy.heads = {"score"} if "scores" in needs else {"value"}
        return policy


@parametrize_with_checks(
    DatasetSampler(), PolicySampler(), PolicySampler(n=2), DynamicSampler(n=2), ReplaySampler(n=2, capacity=4)
)
def test_first_party_samplers_conform(check: Check, part: Any) -> None:
    check(part)


@parametrize_with_checks(Shop(n_pairs=200), Sort(n_pairs=100), Safe(n_pairs=100), Shop(n_pairs=100, noise=0.0))
def test_first_party_tasks_conform(check: Check, part: Any) -> None:
    check(part)


@parametrize_with_checks(Toy())
def test_the_toy_policy_conforms(check: Check, part: Any) -> None:
    check(part)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({"lora_rank": 2}, {"critic": "shared"})),
        {"lora_rank": 2, "critic": "shared", "temperature": 0.7},
    ],
)
def test_the_hf_policy_conforms(settings: dict[str, Any], plain_model: Path) -> None:
    check_policy(HF(model=str(plain_model), max_new_tokens=5, device="cpu", **settings))


# --- broken samplers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnlineIsAField(PolicySampler):
    online: Any = "yes"


@dataclass(frozen=True)
class DropsTheLast(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return super().sample(prompts[:-1], policy, seeds=seeds[:-1])


@dataclass(frozen=True)
class ColumnInTheFirst(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        first, *rest = super().sample(prompts, policy, seeds=seeds)
        return [replace(first, extra={"first": (1.0,) * len(first.completions)}), *rest]


@dataclass(frozen=True)
class IgnoresTheSeed(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return super().sample(prompts, policy, seeds=[7] * len(prompts))


@dataclass(frozen=True)
class DrawsGlobally(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return super().sample(prompts, policy, seeds=torch.randint(1000, (len(prompts),)).tolist())


@dataclass(frozen=True)
class SeedsByThePlace(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        own = fn.seeds(len(prompts), *seeds[:1]) if seeds else []
        return super().sample(prompts, policy, seeds=own)


@dataclass(frozen=True)
class SaysOfflineButWrites(PolicySampler):
    online: ClassVar[bool] = False


@dataclass(frozen=True)
class MovesThePolicy(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Any, *, seeds: Any) -> list[Group]:
        policy.drift(0.1, sum(seeds))
        return super().sample(prompts, policy, seeds=seeds)


@dataclass(frozen=True)
class OneGroupPerText(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return list({group.prompt.messages: group for group in super().sample(prompts, policy, seeds=seeds)}.values())


@dataclass(frozen=True)
class LongestOfAll(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        groups = super().sample(prompts, policy, seeds=seeds)
        longest = max(len(group.prompt_tokens) for group in groups)
        return [replace(group, extra={"share": (len(group.prompt_tokens) / longest,)}) for group in groups]


@dataclass(frozen=True)
class CutsTheText(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        def cut(c: Completion) -> Completion:
            assert c.logprobs is not None
            return replace(c, tokens=c.tokens[-2:], logprobs=c.logprobs[-2:])

        groups = super().sample(prompts, policy, seeds=seeds)
        return [replace(group, completions=tuple(map(cut, group.completions))) for group in groups]


@dataclass(frozen=True)
class NeverAsks(DynamicSampler):
    attempts: int = 0


@dataclass(frozen=True)
class CentresTheScores(DynamicSampler):
    def select(self, groups: Sequence[Group]) -> list[Group]:
        return [replace(g, scores=tuple(replace(s, value=0.0) for s in g.scores or ())) for g in groups]


@dataclass(frozen=True)
class CoinsInSelect(DynamicSampler):
    def select(self, groups: Sequence[Group]) -> list[Group]:
        return [group for group in groups if float(torch.rand(())) > 0.5]


@dataclass(frozen=True)
class RemembersElsewhere(ReplaySampler):
    seen: ClassVar[list[int]] = []

    def next(self, report: StepReport) -> ReplaySampler:
        self.seen.append(report.step)
        return replace(self, capacity=len(self.seen))


@dataclass(frozen=True)
class WritesMoreEachTime(PolicySampler):
    asked: ClassVar[list[int]] = []

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        self.asked.append(len(prompts))
        return policy.generate(prompts, 1 + len(self.asked), seeds=seeds)


@dataclass(frozen=True)
class NotWhatItIsAnnotated(PolicySampler):
    state: tuple[str, ...] = ()

    def next(self, report: StepReport) -> Any:
        return replace(self, state=report.groups)


@dataclass(frozen=True)
class TuplesAsAnything(PolicySampler):
    state: Any = ()

    def next(self, report: StepReport) -> Any:
        return replace(self, state=(*self.state, report.step))


@dataclass(frozen=True)
class ChoosesByGlobalDice(PolicySampler):
    def choose(self, prompts: Sequence[Prompt], n: int, *, seed: int) -> Sequence[int]:
        return [int(torch.randint(len(prompts), ())) for _ in range(n)]


@dataclass(frozen=True)
class ChoosesEachOnce(PolicySampler):
    def choose(self, prompts: Sequence[Prompt], n: int, *, seed: int) -> Sequence[int]:
        return random.Random(seed).sample(range(len(prompts)), min(n, len(prompts)))


class Connection:
    def close(self) -> None: ...


@dataclass(frozen=True)
class SharesWhatItOpens(PolicySampler):
    shared: ClassVar[Connection] = Connection()

    def open(self, context: Context) -> Any:
        return self.shared


BROKEN_SAMPLERS: list[tuple[Any, str, int]] = [
    (OnlineIsAField(), "contract", 11),
    (DropsTheLast(), "groups", 11),
    (ColumnInTheFirst(), "batch", 11),
    (IgnoresTheSeed(), "seeds", 3),
    (SeedsByThePlace(), "neighbours", 1),
    (DrawsGlobally(), "seeds", 3),
    (SaysOfflineButWrites(), "seeds", 3),
    (MovesThePolicy(), "pure", 3),
    (OneGroupPerText(), "hard_inputs", 4),
    (LongestOfAll(), "hard_inputs", 4),
    (CutsTheText(), "written", 5),
    (ChoosesByGlobalDice(), "chooses", 3),
    (ChoosesEachOnce(), "chooses", 3),
    (SharesWhatItOpens(), "opens", 3),
    (NeverAsks(), "selects", 3),
    (CentresTheScores(), "selects", 3),
    (CoinsInSelect(), "selects", 3),
    (RemembersElsewhere(), "successor", 7),
    (NotWhatItIsAnnotated(), "successor", 7),
    (WritesMoreEachTime(), "resume", 7),
    (TuplesAsAnything(), "successor", 7),
]


@pytest.mark.parametrize(("sampler", "check", "law"), BROKEN_SAMPLERS, ids=lambda x: type(x).__name__)
def test_a_broken_sampler_is_caught(sampler: Any, check: str, law: int) -> None:
    with pytest.raises(ConformanceError, match=f"law {law} is broken"):
        check_sampler(sampler, only=[check])


# --- broken policies ----------------------------------------------------------------------------------------------


class NoSave(ToyPolicy):
    save = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "save":
            raise AttributeError(name)
        return super().__getattribute__(name)


class Backwards(ToyPolicy):
    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        return super().generate(prompts, n, seeds=seeds, decoding=decoding)[::-1]


class OtherPromptTokens(ToyPolicy):
    def encode(self, prompt: Prompt, texts: Sequence[Any]) -> Group:
        group = super().encode(prompt, texts)
        return replace(group, prompt_tokens=(*group.prompt_tokens, 3))


class AnswersUnasked(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        return super().forward(batch, columns | {"entropy"})


class SpeaksUnderTheMask(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        return super().forward(replace(batch, mask=batch.attend), columns)


class CountsTheWidth(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        width = 1 + 0.01 * batch.tokens.shape[1]
        return replace(out, **{n: c * width for n, c in vars(out).items() if isinstance(c, Tensor)})


class ReadsTheFuture(ToyPolicy):
    def _states(self, tokens: Tensor) -> Tensor:
        return super()._states(tokens) + 0.1 * super()._states(tokens.flip(1)).flip(1)


class ShiftedByOne(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return replace(
            out, **{n: c.roll(1, 1) * batch.mask for n, c in vars(out).items() if isinstance(c, Tensor) and c.ndim == 2}
        )


class ColdForward(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return out if out.logprobs is None else replace(out, logprobs=0.9 * out.logprobs)


class NearlyExact(ToyPolicy):
    """As far away as an engine of another precision, which says so, may be."""

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return out if out.logprobs is None else replace(out, logprobs=out.logprobs - 5e-4 * batch.mask)


class OneGeneratorForAll(ToyPolicy):
    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        own = fn.seeds(len(prompts), sum(seeds))
        return super().generate(prompts, n, seeds=own, decoding=decoding)


class RollsGlobalDice(ToyPolicy):
    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        return super().generate(prompts, n, seeds=torch.randint(1000, (len(prompts),)).tolist(), decoding=decoding)


class NoReference(ToyPolicy):
    def answering(self, role: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class ReferenceStays(ToyPolicy):
    @contextlib.contextmanager
    def answering(self, role: str) -> Iterator[None]:
        self._answering = self.roles[role]
        yield
        self._answering = self.weights


class CriticUntrained(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return out if out.values is None else replace(out, values=out.values.detach())


class ScoreAtThePadding(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        if "scores" not in columns:
            return super().forward(batch, columns)
        return Forward(scores=(self._states(batch.tokens)[:, -1] @ self._answering["score"]).float())


class ForgetsTheCritic(ToyPolicy):
    def state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().state().items() if name != "value"}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore({**super().state(), **state})


class TokenisesAgain(ToyPolicy):
    """Goes on from the end of what it has said, as a policy does that has lost the tokens before."""

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        return super().go_on([prefix[-6:] for prefix in prefixes], n, seeds=seeds, decoding=decoding)


class FillsHoles(ToyPolicy):
    """Answers from the first token that is trained on to the last."""

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        after = batch.mask.flip(1).cumsum(1).flip(1) > 0
        return super().forward(replace(batch, mask=after & (batch.mask.cumsum(1) > 0)), columns)


class StopsAtHoles(ToyPolicy):
    """Answers the first turn alone."""

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        begins = batch.mask.long().argmax(1, keepdim=True)
        places = torch.arange(batch.mask.shape[1])
        ended = (~batch.mask & (places > begins)).cumsum(1) > 0
        return super().forward(replace(batch, mask=batch.mask & ~ended), columns)


class RoleDoesNotGenerate(ToyPolicy):
    """The trained policy generates, whoever answers."""

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        former, self._answering = self._answering, self.weights
        try:
            return super().generate(prompts, n, seeds=seeds, decoding=decoding)
        finally:
            self._answering = former


class FollowsByAView(ToyPolicy):
    def follow(self, role: str, mix: float) -> None:
        super().follow(role, mix)
        self.roles[role] = self.weights


class ForgetsItsRoles(ToyPolicy):
    def state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().state().items() if "." not in name}


class EveryRoleIsTheReference(ToyPolicy):
    def answering(self, role: str) -> contextlib.AbstractContextManager[None]:
        return super().answering(role if role in self.roles else "ref")


BROKEN_POLICIES: list[tuple[Any, str, int]] = [
    (NoSave, "contract", 11),
    (Backwards, "writes", 11),
    (TokenisesAgain, "goes_on", 5),
    (FillsHoles, "goes_on", 2),
    (StopsAtHoles, "goes_on", 5),
    (OtherPromptTokens, "encodes", 11),
    (AnswersUnasked, "columns", 11),
    (SpeaksUnderTheMask, "columns", 2),
    (CountsTheWidth, "padding", 1),
    (ReadsTheFuture, "causal", 2),
    (ShiftedByOne, "causal", 2),
    (ColdForward, "own_words", 5),
    (NearlyExact, "own_words", 5),
    (RollsGlobalDice, "seeds", 3),
    (OneGeneratorForAll, "neighbours", 1),
    (NoReference, "reference", 5),
    (ReferenceStays, "reference", 5),
    (RoleDoesNotGenerate, "roles", 5),
    (FollowsByAView, "roles", 7),
    (ForgetsItsRoles, "roles", 7),
    (EveryRoleIsTheReference, "roles", 7),
    (CriticUntrained, "gradients", 6),
    (ScoreAtThePadding, "scores", 1),
    (ForgetsTheCritic, "checkpoints", 7),
]


@pytest.mark.parametrize(
    ("cls", "check", "law"), BROKEN_POLICIES, ids=[f"{cls.__name__}-{check}" for cls, check, _ in BROKEN_POLICIES]
)
def test_a_broken_policy_is_caught(cls: Any, check: str, law: int) -> None:
    with pytest.raises(ConformanceError, match=f"law {law} is broken"):
        check_policy(Toy(cls), only=[check])


def test_who_does_not_record_exactly_has_more_leeway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NearlyExact, "info", lambda self: PolicyInfo())
    check_policy(Toy(NearlyExact), only=["own_words"])


# --- broken tasks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Few(Sort):
    n_pairs: int = 40
    n_demonstrations: int = 40
    n_prompts: int = 60


@dataclass(frozen=True)
class HoldsALambda(Few):
    scale: Callable[[float], float] = field(default_factory=lambda: lambda x: x)


@dataclass(frozen=True)
class NoPreference(Few):
    def data(self, kind: str, split: str) -> list[Prompt]:
        return [replace(prompt, labels=(1.0,) * len(prompt.labels)) for prompt in super().data(kind, split)]


@dataclass(frozen=True)
class Shuffled(Few):
    def data(self, kind: str, split: str) -> list[Prompt]:
        return random.sample(rows := super().data(kind, split), len(rows))


@dataclass(frozen=True)
class TrainsOnTheTest(Few):
    def data(self, kind: str, split: str) -> list[Prompt]:
        return super().data(kind, "train") if kind == "demonstrations" else super().data(kind, split)


@dataclass(frozen=True)
class GoldOfSilence(Few):
    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return len(set(completion.text)) / len(completion.text)


@dataclass(frozen=True)
class GoldDrawn(Few):
    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return random.random()


@dataclass(frozen=True)
class GoldUpsideDown(Few):
    def gold(self, prompt: Prompt, completion: Completion) -> float:
        return -super().gold(prompt, completion)


@dataclass(frozen=True)
class NoModel(Few):
    @property
    def policy(self) -> str:
        return "./models/policy"


@dataclass(frozen=True)
class UnknownReward(Few):
    @property
    def reward(self) -> Sequence[Mapping[str, Any]]:
        return ({"name": "mach"},)


BROKEN_TASKS: list[tuple[Any, str, int]] = [
    (HoldsALambda(), "contract", 3),
    (NoPreference(), "data", 11),
    (Shuffled(), "repeats", 3),
    (TrainsOnTheTest(), "held_out", 12),
    (GoldOfSilence(), "gold", 4),
    (GoldDrawn(), "gold", 3),
    (GoldUpsideDown(), "gold", 6),
    (NoModel(), "models", 11),
    (UnknownReward(), "reward", 11),
]


@pytest.mark.parametrize(("task", "check", "law"), BROKEN_TASKS, ids=lambda x: type(x).__name__)
def test_a_broken_task_is_caught(task: Any, check: str, law: int) -> None:
    with pytest.raises(ConformanceError, match=f"law {law} is broken"):
        check_task(task, only=[check])


# --- the kit itself -----------------------------------------------------------------------------------------------


def test_every_check_catches_something() -> None:
    elsewhere = {
        "generated",
        "seeds_apart",
        "own_scores",
        "own_columns",
        "entropy",
        "latest_token",
    }  # test_conformance_elsewhere
    elsewhere |= {"shared", "asked", "as_many", "updates"}  # test_mutant_parts
    elsewhere |= {"behaviour"}  # test_conformance_copies
    elsewhere |= {"asks_more", "drawn_once", "fresh", "greedy_marked", "labelled"}  # test_mutants_of_calls
    elsewhere |= {"distributions", "ends", "follow"}  # likewise
    assert {check for _, check, _ in BROKEN_SAMPLERS} == set(SAMPLER_CHECKS) - elsewhere
    assert {check for _, check, _ in BROKEN_POLICIES} == set(POLICY_CHECKS) - elsewhere
    assert {check for _, check, _ in BROKEN_TASKS} == set(TASK_CHECKS)


def test_a_part_is_told_by_its_members() -> None:
    assert [kind_of(each) for each in (PolicySampler(), Toy(), Sort())] == ["sampler", "policy", "task"]
    with pytest.raises(TypeError, match="3 is no part"):
        kind_of(3)


def test_ids_name_part_and_check() -> None:
    def ids(mark: Any) -> list[str]:
        return [case.id for case in mark.mark.args[1]]

    assert ids(parametrize_with_checks(PolicySampler(), only=["seeds", "pure"])) == [
        "PolicySampler-seeds",
        "PolicySampler-pure",
    ]
    two = ids(parametrize_with_checks(PolicySampler(n=1), PolicySampler(n=2), only=["seeds"]))
    assert two == ["PolicySampler-seeds", "PolicySampler(n=2)-seeds"]
    with pytest.raises(ValueError, match="Did you mean 'seeds'"):
        parametrize_with_checks(PolicySampler(), only=["seed"])
