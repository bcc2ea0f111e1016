"""Mistakes in rewards and samplers that show from call to call: what is asked for, with which seeds, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from alignzoo import Completion, Group, Policy, Prompt, Score
from alignzoo import functional as fn
from alignzoo.testing import ConformanceError, check_reward, check_sampler
from alignzoo_dynamic import DynamicSampler
from alignzoo_samplers import DatasetSampler, PolicySampler

# --- rewards ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """A sound reward."""

    def of(self, group: Group, completion: Completion) -> float:
        return len(completion.text.split()) - 0.01 * (sum(map(ord, str(group.prompt.messages))) % 97)

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return [tuple(Score(self.of(group, each)) for each in group.completions) for group in groups]


KNOWN: dict[Any, float] = {}


class RemembersByThePrompt(Words):
    def of(self, group: Group, completion: Completion) -> float:
        return KNOWN.setdefault(str(group.prompt.messages), super().of(group, completion))


class RemembersByTheBeginning(Words):
    def of(self, group: Group, completion: Completion) -> float:
        return KNOWN.setdefault((str(group.prompt.messages)[:20], completion.text[:20]), super().of(group, completion))


class SortsLargeBatches(Words):
    """By length, so that less is padded, and does not put them back."""

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        rows = [(group, each) for group in groups for each in group.completions]
        if len(rows) > 32:
            rows.sort(key=lambda row: len(row[1].text))
        values = iter([Score(self.of(*row)) for row in rows])
        return [tuple(next(values) for _ in group.completions) for group in groups]


class ScoresEqualTextsOnce(Words):
    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        found = []
        for group in groups:
            values = list({each.text: Score(self.of(group, each)) for each in group.completions}.values())
            found.append(tuple(values + values[-1:] * (len(group.completions) - len(values))))
        return found


class RankInTheGroup(Words):
    """Sound: it compares a group's answers."""

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        lengths = [[len(each.text) for each in group.completions] for group in groups]
        return [tuple(Score(sum(n < m for n in some) / len(some)) for m in some) for some in lengths]


@pytest.mark.parametrize(
    ("reward", "check"),
    [
        (RemembersByThePrompt(), "completion_order"),
        (RemembersByTheBeginning(), "other_process"),
        (SortsLargeBatches(), "group_order"),
        (ScoresEqualTextsOnce(), "equal_answers"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_a_reward_that_goes_by_its_calls_is_caught(reward: Any, check: str) -> None:
    with pytest.raises(ConformanceError):
        check_reward(reward, only=[check])
    for sound in (Words(), RankInTheGroup()):
        check_reward(sound, only=[check])


# --- samplers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asks(PolicySampler):
    """Asks the policy in a way of its own."""

    n: int = 4

    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        return policy.generate(prompts, self.n, seeds=seeds)

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return self.ask(prompts, policy, seeds)


class TwoAtMost(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        return policy.generate(prompts, min(self.n, 2), seeds=seeds)


class FourAtMost(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        return policy.generate(prompts, min(self.n, 4), seeds=seeds)


class SeedsHalved(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        return super().ask(prompts, policy, [seed // 2 for seed in seeds])


class EightSeeds(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        return super().ask(prompts, policy, [seed % 8 for seed in seeds])


class InTwoHalves(Asks):
    more: ClassVar[int] = 0

    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        half = max(1, self.n // 2)
        first = policy.generate(prompts, half, seeds=seeds)
        others = policy.generate(prompts, max(1, self.n - half), seeds=[seed + self.more for seed in seeds])
        pairs = zip(first, others, strict=True)
        return [replace(one, completions=one.completions + two.completions) for one, two in pairs]


class SecondHalfOfTheNextSeed(InTwoHalves):
    more: ClassVar[int] = 1


class SoundHalves(Asks):
    """In two halves, with a seed for each."""

    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        first = policy.generate(prompts, self.n, seeds=seeds)
        others = policy.generate(prompts, self.n, seeds=[fn.derive(seed, "others") for seed in seeds])
        pairs = zip(first, others, strict=True)
        return [replace(one, completions=one.completions + two.completions) for one, two in pairs]


SAID: dict[Any, Group] = {}


class SaysItAgain(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        for prompt, seed in zip(prompts, seeds, strict=True):
            if (str(prompt), seed) not in SAID:
                SAID[str(prompt), seed] = super().ask([prompt], policy, [seed])[0]
        return [SAID[str(prompt), seed] for prompt, seed in zip(prompts, seeds, strict=True)]


class Strips(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        found = super().ask(prompts, policy, seeds)
        return [
            replace(group, completions=tuple(replace(each, text=each.text.strip()) for each in group.completions))
            for group in found
        ]


class Lowers(Asks):
    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        found = super().ask(prompts, policy, seeds)
        return [
            replace(group, completions=tuple(replace(each, text=each.text.lower()) for each in group.completions))
            for group in found
        ]


class TurnedRound(DatasetSampler):
    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        found = super().sample(prompts, policy, seeds=seeds)
        return [replace(group, completions=group.completions[::-1]) for group in found]


class TurnedRoundWithTheirLabels(DatasetSampler):
    """Sound."""

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        turned = [replace(each, completions=each.completions[::-1], labels=each.labels[::-1]) for each in prompts]
        return super().sample(turned, policy, seeds=seeds)


class KeptTwice(DynamicSampler):
    def select(self, groups: Sequence[Group]) -> list[Group]:
        return [group for group in super().select(groups) for _ in range(2)]


@pytest.mark.parametrize(
    ("sampler", "check"),
    [
        (TwoAtMost(), "asks_more"),
        (FourAtMost(), "asks_more"),
        (SeedsHalved(), "seeds_apart"),
        (EightSeeds(), "seeds_apart"),
        (SecondHalfOfTheNextSeed(), "seeds_apart"),
        (InTwoHalves(), "drawn_once"),
        (SaysItAgain(), "fresh"),
        (Strips(), "generated"),
        (Lowers(), "generated"),
        (TurnedRound(), "labelled"),
        (KeptTwice(n=2), "selects"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_a_sampler_that_goes_by_its_calls_is_caught(sampler: Any, check: str) -> None:
    with pytest.raises(ConformanceError):
        check_sampler(sampler, only=[check])
    for sound in (Asks(), SoundHalves(), TurnedRoundWithTheirLabels(), DynamicSampler(n=2)):
        check_sampler(sound, only=[check])
