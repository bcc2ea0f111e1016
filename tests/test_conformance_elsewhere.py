"""Rewards, judges, samplers and policies that are wrong in ways which one call in one process does not show."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import Batch, Completion, Forward, Group, Policy, Prompt, Question, Score, Verdict
from alignzoo.testing import ConformanceError, ToyPolicy, check_judge, check_policy, check_reward, check_sampler
from alignzoo_samplers import PolicySampler


@dataclass(frozen=True)
class Length:
    """A sound reward: how long an answer is beside its question."""

    def of(self, group: Group, completion: Completion) -> float:
        return len(completion.text) - 2.0 * len(str(group.prompt.messages))

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(self.of(group, each)) for each in group.completions) for group in groups]


class HashOfText(Length):
    def of(self, group: Group, completion: Completion) -> float:
        return hash(completion.text) % 7


MEMO: dict[str, float] = {}


class MemoByText(Length):
    def of(self, group: Group, completion: Completion) -> float:
        place = {"what is 0": 0.0}.get(str(group.prompt.messages), 1.0)
        return MEMO.setdefault(completion.text, place)


class SharesTheReward(Length):
    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        found = super().score(groups, policy)
        return [tuple(replace(s, value=(s.value or 0.0) / len(scores)) for s in scores) for scores in found]


class LabelsByPlace(Length):
    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(map(Score, (*g.prompt.labels, *(0.0,) * 9)[: len(g.completions)])) for g in groups]


CALLS: list[int] = []


class Drifts(Length):
    def of(self, group: Group, completion: Completion) -> float:
        CALLS.append(1)
        return super().of(group, completion) + (len(CALLS) > 40)


class SeedsPython(Length):
    def of(self, group: Group, completion: Completion) -> float:
        random.seed(0)
        return random.random()


class NamesTheMean(Length):
    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(replace(s, parts={"mean": 1.0}) for s in scores) for scores in super().score(groups, policy)]


@pytest.mark.parametrize(
    ("reward", "check"),
    [
        (HashOfText(), "other_process"),
        (MemoByText(), "other_process"),
        (SharesTheReward(), "group_size"),
        (LabelsByPlace(), "whose_labels"),
        (Drifts(), "many_calls"),
        (SeedsPython(), "repeats"),
        (NamesTheMean(), "parts"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Length) else x,
)
def test_a_reward_that_is_wrong_later_is_caught(reward: Any, check: str) -> None:
    check_reward(Length())
    with pytest.raises(ConformanceError):
        check_reward(reward, only=[check])


@dataclass(frozen=True)
class HashJudge:
    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", hash(question.answers[0]) % 2) for question in questions]


@dataclass(frozen=True)
class WorseOfTwo:
    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", float(q.answers[0] < q.answers[-1])) for q in questions]


def test_a_judge_by_hash_is_caught_and_how_often_one_agrees_with_the_labels_is_told() -> None:
    from alignzoo.testing import JUDGE_CHECKS, Given

    with pytest.raises(ConformanceError, match="hash"):
        check_judge(HashJudge(), only=["other_process"])
    prompts = tuple(Prompt(f"p{i}", ("better", "worse"), (1.0, 0.0)) for i in range(3))
    figures = JUDGE_CHECKS["leanings"](WorseOfTwo(), Given(prompts=prompts))
    assert figures["labels/agreement"] == 1.0
    turned = tuple(replace(p, labels=p.labels[::-1]) for p in prompts)
    assert JUDGE_CHECKS["leanings"](WorseOfTwo(), Given(prompts=turned))["labels/agreement"] == 0.0


class Changed(PolicySampler):
    """Changes each completion that the policy has generated."""

    def change(self, group: Group, i: int) -> Completion:
        return group.completions[i]

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        groups = super().sample(prompts, policy, seeds=seeds)
        return [replace(g, completions=tuple(self.change(g, i) for i in range(len(g.completions)))) for g in groups]


class AllFinished(Changed):
    def change(self, group: Group, i: int) -> Completion:
        return replace(group.completions[i], finished=True)


class CutAndFinished(Changed):
    def change(self, group: Group, i: int) -> Completion:
        return replace(group.completions[i].cut(2), finished=True)


class TextOfTheNext(Changed):
    def change(self, group: Group, i: int) -> Completion:
        return replace(group.completions[i], text=group.completions[i - 1].text)


class AnotherVersion(Changed):
    def change(self, group: Group, i: int) -> Completion:
        return replace(group.completions[i], policy_version=3)


class SeedPlusI(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        each = [policy.generate(prompts, 1, seeds=[seed + i for seed in seeds]) for i in range(self.n)]
        return [
            replace(one[0], completions=tuple(group.completions[0] for group in one)) for one in zip(*each, strict=True)
        ]


class BringsZeros(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        groups = super().sample(prompts, policy, seeds=seeds)
        return [replace(group, scores=(Score(0.0),) * len(group.completions)) for group in groups]


class LeavesOutItsColumn(PolicySampler):
    brings: ClassVar[frozenset[str]] = frozenset({"greedy"})


@pytest.mark.parametrize(
    ("sampler", "check"),
    [
        *((cls(n=2), "generated") for cls in (AllFinished, CutAndFinished, TextOfTheNext, AnotherVersion)),
        (SeedPlusI(), "seeds_apart"),
        (BringsZeros(), "own_scores"),
        (LeavesOutItsColumn(), "own_columns"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, PolicySampler) else x,
)
def test_a_sampler_that_tells_something_else_is_caught(sampler: Any, check: str) -> None:
    with pytest.raises(ConformanceError):
        check_sampler(sampler, only=[check])
    check_sampler(PolicySampler(n=2), only=[check])


class EntropyInBits(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return out if out.entropy is None else replace(out, entropy=out.entropy / torch.log(torch.tensor(2.0)))


class EntropyDetached(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return out if out.entropy is None else replace(out, entropy=out.entropy.detach())


class ValuesLate(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, columns)
        return out if out.values is None else replace(out, values=out.values.roll(1, 1) * batch.mask)


@dataclass(frozen=True)
class Loads:
    policy: ClassVar[type[ToyPolicy]] = ToyPolicy

    def load(self, needs: frozenset[str], roles: Any = None) -> ToyPolicy:
        return self.policy()


@pytest.mark.parametrize(
    ("policy", "check"), [(EntropyInBits, "entropy"), (EntropyDetached, "entropy"), (ValuesLate, "latest_token")]
)
def test_a_policy_with_other_numbers_is_caught(policy: type[ToyPolicy], check: str) -> None:
    with pytest.raises(ConformanceError):
        check_policy(type("Spec", (Loads,), {"policy": policy})(), only=[check])
    check_policy(Loads(), only=[check])
