"""Every reward and every judge of the zoo keeps the laws of its kind, and each law catches one that breaks it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Group, Judge, Policy, Prompt, Question, Score, Verdict
from alignzoo.interfaces import RewardSource
from alignzoo.registry import Registry
from alignzoo.testing import (
    JUDGE_CHECKS,
    REWARD_CHECKS,
    ConformanceError,
    check_judge,
    check_reward,
    toy_prompts,
)
from alignzoo_constitution.reward import Constitution
from alignzoo_hf.reward import ModelReward
from alignzoo_judge.endpoint import OpenAI
from alignzoo_judge.reward import JudgeReward
from alignzoo_match import Match
from alignzoo_random import Random as RandomReward
from alignzoo_rules import Labels, Length, Python
from alignzoo_tiny import safe
from alignzoo_tiny.data import ASSETS
from alignzoo_tiny.judge import RulesJudge
from alignzoo_tiny.rewards import Rules
from alignzoo_yardsticks import First, Longer, Recorded
from alignzoo_yardsticks import Random as RandomJudge
from conftest import Command
from judge_server import JudgeServer


def count(completions: Sequence[Any], **columns: Any) -> list[float]:
    """A reward of the user's own."""
    return [float(len(str(each))) for each in completions]


def asked(text: str, *completions: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},), completions, tuple(float(-i) for i in range(len(completions))))


SAFE = [
    asked(text, safe.understand(text).best, "you are stupid .", "we can see .") for text in safe.prompts("train")[:3]
]
RIGHT = [replace(prompt, info={"answer": "it is 1"}) for prompt in toy_prompts()]

REWARDS: dict[str, list[tuple[RewardSource, Sequence[Prompt]]]] = {
    "labels": [(Labels(), ())],
    "python": [(Python(f"{__file__}:count"), ())],
    "match": [(Match(), RIGHT), (Match(mode="numeric"), RIGHT), (Match(mode="math"), RIGHT)],
    "length": [(Length(), ()), (Length(unit="words", free=2), ())],
    "model": [(ModelReward(str(ASSETS / "reward")), SAFE)],
    "rules": [(Rules(), SAFE)],
    "random": [(RandomReward(), ())],
    "judge": [
        (JudgeReward(RulesJudge(noise=1.0)), SAFE),
        (JudgeReward(RulesJudge(), mode="pointwise"), SAFE),
        (JudgeReward(RulesJudge(), orders="one", pairs=2, clamp=(0.4, 0.6)), SAFE),
    ],
    "constitution": [
        (Constitution(RulesJudge(), constitution="safe"), SAFE),
        (Constitution(RulesJudge(), "pointwise", constitution="safe", principles_per_comparison=2), SAFE),
        (Constitution(RulesJudge(), constitution="zoo", principles_per_comparison=1), SAFE),
    ],
}
"""Every reward of the zoo, with prompts that it knows."""

OF_THEIR_OWN = {"human", "process", "implicit-prm"}
"""Tested elsewhere: `human` takes people, and the others take models with the policy's own tokens."""

CASES = [
    (name, number, check) for name, given in REWARDS.items() for number in range(len(given)) for check in REWARD_CHECKS
]


@pytest.mark.parametrize(("name", "number", "check"), CASES)
def test_every_reward_conforms(name: str, number: int, check: str) -> None:
    reward, prompts = REWARDS[name][number]
    check_reward(reward, only=[check], prompts=prompts)


def test_no_reward_and_no_judge_of_the_zoo_is_left_out() -> None:
    zoo = Registry()
    own = {each.name for each in zoo.list("reward") if each.distribution == "alignzoo"}
    assert own - OF_THEIR_OWN == REWARDS.keys()
    judges = {each.name for each in zoo.list("judge") if each.distribution == "alignzoo"}
    assert (
        judges - {"openai", "local", "model", "recorded", "human"} == JUDGES.keys()
    )  # openai: below; local and model: in tests of their own


JUDGES: dict[str, list[Judge]] = {
    "rules": [RulesJudge(), RulesJudge(noise=0.5)],
    "first": [First()],
    "longer": [Longer()],
    "random": [RandomJudge(), RandomJudge(seed=1)],
}
"""Every judge of the zoo that is a program."""


@pytest.mark.parametrize("check", JUDGE_CHECKS)
@pytest.mark.parametrize("judge", [judge for given in JUDGES.values() for judge in given], ids=repr)
def test_every_program_conforms(judge: Judge, check: str) -> None:
    check_judge(judge, only=[check], prompts=SAFE)


def test_recorded_verdicts_conform(tmp_path: Path) -> None:
    rows = [{"prompt": "what is 1", "chosen": "it is 1", "rejected": "no no idea", "who": 1}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check_judge(Recorded(str(tmp_path / "pairs.jsonl"), "who"))


def test_an_endpoint_conforms(judge_server: JudgeServer) -> None:
    check_judge(OpenAI("small", base_url=judge_server.url))


# --- broken rewards: each breaks one law in the way that one does by mistake ------------------------------------------


@dataclass(frozen=True)
class Base:
    """A sound reward to be broken."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(self.value(each.text)) for each in group.completions) for group in groups]

    def value(self, text: str) -> float:
        return float(len(text))


@dataclass
class NotFrozen:
    score = Base.score
    value = Base.value


@dataclass(frozen=True)
class Flat(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        return [score for scores in super().score(groups, policy) for score in scores]


@dataclass(frozen=True)
class SkipsTheEmpty(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        return [tuple(Score(1.0) for each in group.completions if each.text.strip()) for group in groups]


@dataclass(frozen=True)
class MeanOfNothing(Base):
    def value(self, text: str) -> float:
        words = torch.tensor([float(len(word)) for word in text.split()])
        return float(words.mean())


@dataclass(frozen=True)
class Whitens(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        scores = super().score(groups, policy)
        numbers = [score.value or 0.0 for each in scores for score in each]
        mean = sum(numbers) / max(1, len(numbers))
        return [tuple(Score((score.value or 0.0) - mean) for score in each) for each in scores]


@dataclass(frozen=True)
class FirstIsBest(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        return [tuple(Score(float(-i)) for i in range(len(group.completions))) for group in groups]


@dataclass(frozen=True)
class Unseeded(Base):
    def value(self, text: str) -> float:
        return random.random()


@dataclass(frozen=True)
class TakesFromTorch(Base):
    def value(self, text: str) -> float:
        torch.rand(1)
        return 0.0


@dataclass(frozen=True)
class WritesIntoInfo(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        for group in groups:
            group.prompt.info["seen"] = True
        return super().score(groups, policy)


@dataclass(frozen=True)
class MovesThePolicy(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        with torch.no_grad():
            for tensor in policy.state().values():
                tensor.add_(1.0)
        return super().score(groups, policy)


@dataclass(frozen=True)
class FormatsWithPercent(Base):
    def value(self, text: str) -> float:
        return float(len((text + " by %d") % 3))


@dataclass(frozen=True)
class ScoresTooFew(Base):
    def score(self, groups: Any, policy: Any) -> Any:
        return super().score(groups, policy)[:1]


BROKEN: list[tuple[Any, str]] = [
    (NotFrozen(), "contract"),
    (Flat(), "answers"),
    (ScoresTooFew(), "answers"),
    (Whitens(), "group_order"),
    (FirstIsBest(), "completion_order"),
    (Unseeded(), "repeats"),
    (TakesFromTorch(), "repeats"),
    (WritesIntoInfo(), "pure"),
    (MovesThePolicy(), "pure"),
    (SkipsTheEmpty(), "hard_inputs"),
    (MeanOfNothing(), "hard_inputs"),
    (FormatsWithPercent(), "hard_inputs"),
    (ScoresTooFew(), "length"),
]


@pytest.mark.parametrize(("reward", "check"), BROKEN, ids=[f"{type(r).__name__}-{c}" for r, c in BROKEN])
def test_a_broken_reward_is_caught(reward: Any, check: str) -> None:
    with pytest.raises(ConformanceError, match=r"law \d+ is broken"):
        check_reward(reward, only=[check])


def test_the_sound_reward_is_not_caught_and_its_length_is_told() -> None:
    check_reward(Base())
    # a character a point: the correlation is 1; "it is 0" said twice is 7 + 1 characters longer
    figures = REWARD_CHECKS["length"](Base())
    assert figures == {"length/correlation": pytest.approx(1.0), "length/said_twice": 8.0}
    # "no no idea" is longer than "it is 1", and its label is the lower one
    expected = {"length/correlation": pytest.approx(-1.0), "length/said_twice": 0.0}
    assert REWARD_CHECKS["length"](Labels()) == expected


# --- broken judges ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """A sound judge to be broken."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", self.value(question)) for question in questions]

    def value(self, question: Question) -> float:
        lengths = [len(text) for text in question.answers]
        return 0.5 if len(lengths) == 1 else 0.5 + 0.5 * ((lengths[0] > lengths[1]) - (lengths[0] < lengths[1]))


@dataclass(frozen=True)
class Unhashable(Sound):
    seen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Mute(Sound):
    def judge(self, questions: Any, policy: Any) -> Any:
        return [Verdict("error", note="mute") for _ in questions]


@dataclass(frozen=True)
class Remembers(Sound):
    def judge(self, questions: Any, policy: Any) -> Any:
        return [Verdict("value", i / max(1, len(questions))) for i in range(len(questions))]


@dataclass(frozen=True)
class Rolls(Sound):
    def value(self, question: Question) -> float:
        return random.random()


@dataclass(frozen=True)
class Marks(Sound):
    def judge(self, questions: Any, policy: Any) -> Any:
        for question in questions:
            question.info["seen"] = True
        return super().judge(questions, policy)


@dataclass(frozen=True)
class DividesByLength(Sound):
    def value(self, question: Question) -> float:
        return len(question.answers[0]) / sum(len(text) for text in question.answers)


@dataclass(frozen=True)
class OneVerdict(Sound):
    def judge(self, questions: Any, policy: Any) -> Any:
        return super().judge(questions[:1], policy)


@pytest.mark.parametrize(
    ("judge", "check"),
    [
        (Unhashable(), "contract"),
        (Mute(), "answers"),
        (OneVerdict(), "answers"),
        (Remembers(), "question_order"),
        (Rolls(), "repeats"),
        (Marks(), "pure"),
        (DividesByLength(), "hard_inputs"),
        (OneVerdict(), "leanings"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_a_broken_judge_is_caught(judge: Any, check: str) -> None:
    with pytest.raises(ConformanceError, match=r"law \d+ is broken"):
        check_judge(judge, only=[check])


def test_what_a_judge_leans_to_is_told() -> None:
    check_judge(Sound())
    assert JUDGE_CHECKS["leanings"](Sound()) == {
        "place/leaning": 0.0,
        "place/consistent": 1.0,
        "length/said_twice": 0.5,  # the longer one is always preferred
    }

    @dataclass(frozen=True)
    class Place(Sound):
        def value(self, question: Question) -> float:
            return 1.0

    assert JUDGE_CHECKS["leanings"](Place()) == {
        "place/leaning": 0.5,
        "place/consistent": 0.0,
        "length/said_twice": 0.0,
    }


def test_the_command_holds_a_reward_with_its_judge(alignzoo: Command) -> None:
    said = alignzoo("check", "length")
    assert said.code == 0 and "length/correlation: 1" in said.out, said.err
    broken = alignzoo("check", "reward:judge", "judge=rule")
    assert broken.code == 1 and "there is no judge 'rule'. Did you mean 'rules'?" in broken.err
