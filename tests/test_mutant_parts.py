"""Mistakes of many kinds in rewards, judges, samplers and policies: the check of its kind catches each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from alignzoo import Completion, Decoding, Group, Policy, Prompt, Question, Score, Verdict
from alignzoo.decoding import AS_SET
from alignzoo.testing import ConformanceError, ToyPolicy, check_judge, check_policy, check_reward, check_sampler
from alignzoo.testing.world import toy_prompts
from alignzoo_samplers import PolicySampler

# --- rewards ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Length:
    """A sound reward."""

    def of(self, group: Group, completion: Completion) -> float | None:
        return len(completion.text) - 2.0 * len(str(group.prompt.messages))

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return [tuple(Score(self.of(group, each)) for each in group.completions) for group in groups]


class ByTheHour(Length):
    def of(self, group: Group, completion: Completion) -> float:
        return float(int(time.time()) // 3600 % 2)


class ByTheMinute(Length):
    def of(self, group: Group, completion: Completion) -> float:
        return float(int(time.time()) // 60 % 2)


class RewardsOthersTokens(Length):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return [tuple(Score(0.0, tokens=(1.0,) * len(c.tokens)) for c in g.completions) for g in groups]


class SwitchesGradientsOff(Length):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        torch.set_grad_enabled(False)
        return super().score(groups, policy)


class LeavesTheRole(Length):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        policy._answering = policy.roles["ref"]
        return super().score(groups, policy)


class ReadsTextAlone(Length):
    def of(self, group: Group, completion: Completion) -> float:
        return float(len(group.prompt.messages.strip()))  # type: ignore[union-attr]


class FirstEightAlone(Length):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        found = super().score(groups, policy)
        return [scores if i < 8 else tuple(Score(0.0) for _ in scores) for i, scores in enumerate(found)]


class RemembersTextAlone(Length):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        known: dict[str, float | None] = {}
        return [tuple(Score(known.setdefault(c.text, self.of(g, c))) for c in g.completions) for g in groups]


class DenseByTheCall(Length):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        rewards = 1.0 / len(groups) if groups else 0.0
        return [tuple(Score(0.0, tokens=(rewards,) * len(c.tokens)) for c in g.completions) for g in groups]


class Enormous(Length):
    def of(self, group: Group, completion: Completion) -> float:
        return 1e16


class NeverScores(Length):
    def of(self, group: Group, completion: Completion) -> None:
        return None


@pytest.mark.parametrize(
    ("reward", "check", "prompts"),
    [
        (ByTheHour(), "other_process", ()),
        (RewardsOthersTokens(), "answers", ()),
        (FirstEightAlone(), "group_order", ()),
        (RemembersTextAlone(), "group_order", ()),
        (DenseByTheCall(), "group_order", ()),
        (Enormous(), "answers", ()),
        (SwitchesGradientsOff(), "shared", ()),
        (LeavesTheRole(), "shared", ()),
        (ReadsTextAlone(), "answers", ()),
        (NeverScores(), "answers", toy_prompts(2)),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Length) else None,
)
def test_a_reward_of_its_kind_is_caught(reward: Any, check: str, prompts: Sequence[Prompt]) -> None:
    with pytest.raises(ConformanceError):
        check_reward(reward, only=[check], prompts=prompts)
    assert torch.is_grad_enabled()
    check_reward(Length(), only=[check], prompts=prompts)


@pytest.mark.parametrize("reward", [ByTheHour(), ByTheMinute()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("seconds", [0, 1020, 2399, 2400, 3598])
def test_a_clock_in_a_score_is_caught_at_every_minute(
    seconds: int, reward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + seconds)
    with pytest.raises(ConformanceError, match="the time of day"):
        check_reward(reward, only=["other_process"])


# --- judges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Longer:
    """A sound judge."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", self.value(question)) for question in questions]

    def value(self, question: Question) -> float:
        return 0.5 if len(question.answers) == 1 else float(len(question.answers[0]) > len(question.answers[1]))


class JudgesByTheHour(Longer):
    def value(self, question: Question) -> float:
        return float(int(time.time()) // 3600 % 2)


KNOWN: dict[Any, float] = {}


class RemembersAnswersAlone(Longer):
    def value(self, question: Question) -> float:
        return KNOWN.setdefault(question.answers, float("0" in str(question.prompt)))


class OneVerdictForTheAnswers(Longer):
    """It leaves out of a call what it takes for the same question; `same` is what it goes by."""

    def same(self, question: Question) -> Any:
        return question.answers

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        known: dict[Any, float] = {}
        return [
            Verdict("value", known.setdefault(self.same(each), float(len(str(each.prompt) + each.criterion) > 30)))
            for each in questions
        ]


class OneVerdictForAllCriteria(OneVerdictForTheAnswers):
    def same(self, question: Question) -> Any:
        return str(question.prompt), question.answers


class OneVerdictForBothOrders(Longer):
    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        known: dict[Any, float] = {}
        return [
            Verdict("value", known.setdefault((str(q.prompt), q.criterion, frozenset(q.answers)), self.value(q)))
            for q in questions
        ]


class JudgesInDouble(Longer):
    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        torch.set_default_dtype(torch.float64)
        return super().judge(questions, policy)


@pytest.mark.parametrize(
    ("judge", "check"),
    [
        (JudgesByTheHour(), "other_process"),
        (RemembersAnswersAlone(), "other_process"),
        (OneVerdictForTheAnswers(), "question_order"),
        (OneVerdictForAllCriteria(), "question_order"),
        (OneVerdictForBothOrders(), "question_order"),
        (JudgesInDouble(), "shared"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Longer) else None,
)
def test_a_judge_of_its_kind_is_caught(judge: Any, check: str) -> None:
    with pytest.raises(ConformanceError):
        check_judge(judge, only=[check])
    assert torch.get_default_dtype() == torch.float32
    check_judge(Longer(), only=[check])


# --- samplers ---------------------------------------------------------------------------------------------------------


class Changed(PolicySampler):
    """Changes each group that the policy has generated."""

    def change(self, group: Group) -> Group:
        return group

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return [self.change(group) for group in super().sample(prompts, policy, seeds=seeds)]


class MergesEqualAnswers(Changed):
    def change(self, group: Group) -> Group:
        kept = tuple({each.text: each for each in group.completions}.values())
        return replace(group, completions=kept, extra={})


class LikeliestTwice(Changed):
    def change(self, group: Group) -> Group:
        best = max(group.completions, key=lambda each: sum(each.logprobs or ()))
        return replace(group, completions=(best,) * len(group.completions))


class LosesColumns(Changed):
    def change(self, group: Group) -> Group:
        return replace(group, prompt=replace(group.prompt, info={}))


class LastTurnAlone(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        cut = [p if isinstance(p.messages, str) else replace(p, messages=p.messages[-1:]) for p in prompts]
        found = super().sample(cut, policy, seeds=seeds)
        return [replace(group, prompt=prompt) for group, prompt in zip(found, prompts, strict=True)]


class KeysByMessages(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        assert len({prompt.messages: 0 for prompt in prompts}) > 0
        return super().sample(prompts, policy, seeds=seeds)


class OthersFirst(PolicySampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        more = [replace(group, prompt=Prompt("another")) for group in super().sample(prompts, policy, seeds=seeds)]
        pairs = zip(more, super().sample(prompts, policy, seeds=seeds), strict=True)
        return [each for pair in pairs for each in pair]


class OthersAfterwards(PolicySampler):
    """Other texts to train on after each prompt's own group, which is right."""

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        found = []
        for group in super().sample(prompts, policy, seeds=seeds):
            found += [group, policy.encode(Prompt("once upon"), ["a time"])]
        return found


@pytest.mark.parametrize(
    ("sampler", "check"),
    [
        (MergesEqualAnswers(n=2), "as_many"),
        (LikeliestTwice(n=2), "generated"),
        (LosesColumns(), "asked"),
        (LastTurnAlone(), "asked"),
        (KeysByMessages(), "groups"),
        (OthersFirst(), "groups"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, PolicySampler) else None,
)
def test_a_sampler_of_its_kind_is_caught(sampler: Any, check: str) -> None:
    with pytest.raises(ConformanceError):
        check_sampler(sampler, only=[check])
    for sound in (PolicySampler(n=2), OthersAfterwards(n=2)):
        check_sampler(sound, only=[check])


# --- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    cls: type[ToyPolicy] = ToyPolicy

    def load(self, needs: frozenset[str], roles: Any = None) -> ToyPolicy:
        return self.cls()


class KeepsGradients(ToyPolicy):
    def step(self, lr: float, clip: float) -> float:
        kept = {name: None if t.grad is None else t.grad.clone() for name, t in self.weights.items()}
        norm = super().step(lr, clip)
        for name, gradient in kept.items():
            self.weights[name].grad = gradient
        return norm


class NeverClips(ToyPolicy):
    def step(self, lr: float, clip: float) -> float:
        return super().step(lr, 0.0)


class ClipsByTensor(ToyPolicy):
    def step(self, lr: float, clip: float) -> float:
        for tensor in self.weights.values():
            if tensor.grad is not None and clip:
                torch.nn.utils.clip_grad_norm_([tensor], clip)
        return super().step(lr, 0.0)


class TellsTheNormAfterwards(ToyPolicy):
    def step(self, lr: float, clip: float) -> float:
        return min(super().step(lr, clip), clip or float("inf"))


class ARateOfItsOwn(ToyPolicy):
    def step(self, lr: float, clip: float) -> float:
        return super().step(1e-3, clip)


class LastMicroBatch(ToyPolicy):
    def backward(self, loss: torch.Tensor) -> None:
        self._optimizer.zero_grad()
        super().backward(loss)


class DropsNothing(ToyPolicy):
    def drop_gradients(self) -> None:
        pass


class ForgetsMoments(ToyPolicy):
    def optimizer_state(self) -> dict[str, Any]:
        return {**super().optimizer_state(), "state": {}}


class StepsIntoInfinity(ToyPolicy):
    def step(self, lr: float, clip: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(
            [p for g in self._optimizer.param_groups for p in g["params"]], clip or 1e9
        )
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)


class IgnoresALimit(ToyPolicy):
    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        return super().go_on(prefixes, n, seeds=seeds)


POLICIES = [
    *(KeepsGradients, NeverClips, ClipsByTensor, TellsTheNormAfterwards, ARateOfItsOwn, LastMicroBatch),
    *(DropsNothing, ForgetsMoments, StepsIntoInfinity),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_of_its_kind_is_caught(policy: type[ToyPolicy]) -> None:
    with pytest.raises(ConformanceError):
        check_policy(Spec(policy), only=["updates"])


def test_a_sound_policy_updates_as_it_should() -> None:
    check_policy(Spec(), only=["updates"])
    with pytest.raises(ConformanceError):
        check_policy(Spec(IgnoresALimit), only=["seeds"])
