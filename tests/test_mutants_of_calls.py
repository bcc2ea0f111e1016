"""Mistakes in rewards, samplers and policies that show from call to call: what is asked for, with which seeds, what is
kept, how it ends, and what is said of whole distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import Batch, Completion, Decoding, Forward, Group, Policy, Prompt, Score
from alignzoo import functional as fn
from alignzoo.decoding import AS_SET
from alignzoo.testing import ConformanceError, ToyPolicy, check_policy, check_reward, check_sampler
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


class BestOfTen(Asks):
    """Sound: it asks for ten whatever n is, and keeps the shortest n."""

    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        found = policy.generate(prompts, 10, seeds=seeds)
        return [
            replace(group, completions=tuple(sorted(group.completions, key=lambda each: len(each.tokens))[: self.n]))
            for group in found
        ]


class GreedyForOne(Asks):
    """The first answer is the greedy one, and says that it was drawn."""

    def first(self, greedy: Group) -> Group:
        return greedy

    def ask(self, prompts: Sequence[Prompt], policy: Policy, seeds: Sequence[int]) -> list[Group]:
        found = super().ask(prompts, policy, seeds)
        greedy = map(self.first, policy.generate(prompts, 1, seeds=seeds, decoding=Decoding(greedy=True)))
        return [
            replace(group, completions=(*one.completions, *group.completions[1:]))
            for group, one in zip(found, greedy, strict=True)
        ]


class GreedyAndTold(GreedyForOne):
    """Sound."""

    def first(self, greedy: Group) -> Group:
        return replace(greedy, completions=tuple(replace(each, logprobs=None) for each in greedy.completions))


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
        (GreedyForOne(), "greedy_marked"),
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
    for sound in (
        Asks(),
        SoundHalves(),
        BestOfTen(),
        GreedyAndTold(),
        TurnedRoundWithTheirLabels(),
        DynamicSampler(n=2),
    ):
        check_sampler(sound, only=[check])


# --- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loads:
    """The toy policy's settings, and which of the changed ones to load."""

    cls: type[ToyPolicy] = ToyPolicy

    def load(self, needs: frozenset[str], roles: Any = None) -> ToyPolicy:
        return self.cls()


class Renamed(ToyPolicy):
    """Answers a column by another one's numbers."""

    def other(self, name: str) -> str:
        return name

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        out = super().forward(batch, frozenset(map(self.other, columns)))
        return Forward.of({name: out[self.other(name)] for name in columns})


class DirectionsExchanged(Renamed):
    def other(self, name: str) -> str:
        return {"ref_kl": "ref_reverse_kl", "ref_reverse_kl": "ref_kl"}.get(name, name)


class WeightReversed(Renamed):
    def other(self, name: str) -> str:
        head, _, beta = name.partition("jsd:")
        return f"{head}jsd:{1 - float(beta):g}" if beta else name


class Adjusted(ToyPolicy):
    """Changes some columns' numbers."""

    def change(self, name: str, column: torch.Tensor) -> torch.Tensor:
        return column

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        found = super().forward(batch, columns).columns()
        return Forward.of({name: self.change(name, column) for name, column in found.items()})


class DivergencesInBits(Adjusted):
    def change(self, name: str, column: torch.Tensor) -> torch.Tensor:
        return column / math.log(2) if name.endswith("_kl") else column


class DivergencesDetached(Adjusted):
    def change(self, name: str, column: torch.Tensor) -> torch.Tensor:
        return column.detach() if name.endswith("_kl") else column


class EntropyCutOff(Adjusted):
    def change(self, name: str, column: torch.Tensor) -> torch.Tensor:
        return column.clamp(max=0.5) if name == "entropy" else column


class OwnProbabilitySquared(ToyPolicy):
    """The collision of the token's own probability, not of all."""

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        found = super().forward(batch, columns | {"logprobs"}).columns()
        squared = (2 * found["logprobs"]).exp() * batch.mask
        return Forward.of({name: squared if name == "collision" else found[name] for name in columns})


class Generates(ToyPolicy):
    """Generates in a way of its own."""

    def decoded(self, decoding: Decoding) -> Decoding:
        return decoding

    def ended(self, completion: Completion) -> bool:
        return completion.finished

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        found = super().go_on(prefixes, n, seeds=seeds, decoding=self.decoded(decoding))
        return [[replace(each, finished=self.ended(each)) for each in some] for some in found]


class AlwaysFinished(Generates):
    def ended(self, completion: Completion) -> bool:
        return True


class NeverFinished(Generates):
    def ended(self, completion: Completion) -> bool:
        return False


class OneTokenMore(Generates):
    def decoded(self, decoding: Decoding) -> Decoding:
        return replace(decoding, max_new_tokens=(decoding.max_new_tokens or 8) + 1)


class OneTemperature(Generates):
    def decoded(self, decoding: Decoding) -> Decoding:
        return replace(decoding, temperature=None)


class NoStopTexts(Generates):
    def decoded(self, decoding: Decoding) -> Decoding:
        return replace(decoding, stop=None)


class NoStopTokens(Generates):
    def decoded(self, decoding: Decoding) -> Decoding:
        return replace(decoding, stop_tokens=None)


class FollowsAtOnce(ToyPolicy):
    def follow(self, role: str, mix: float) -> None:
        super().follow(role, 1.0)


class FollowsTheRest(ToyPolicy):
    def follow(self, role: str, mix: float) -> None:
        super().follow(role, 1 - mix)


POLICIES: list[tuple[type[ToyPolicy], str]] = [
    *((each, "distributions") for each in (DirectionsExchanged, WeightReversed, DivergencesInBits)),
    *((each, "distributions") for each in (DivergencesDetached, EntropyCutOff, OwnProbabilitySquared)),
    *((each, "ends") for each in (AlwaysFinished, NeverFinished, OneTokenMore)),
    *((each, "ends") for each in (OneTemperature, NoStopTexts, NoStopTokens)),
    *((each, "follow") for each in (FollowsAtOnce, FollowsTheRest)),
]


@pytest.mark.parametrize(
    ("policy", "check"), POLICIES, ids=lambda each: each if isinstance(each, str) else each.__name__
)
def test_a_policy_of_other_distributions_and_ends_is_caught(policy: type[ToyPolicy], check: str) -> None:
    with pytest.raises(ConformanceError):
        check_policy(Loads(policy), only=[check])
    for sound in (ToyPolicy, Renamed, Adjusted, Generates):
        check_policy(Loads(sound), only=[check])


class AnswersNoDivergence(ToyPolicy):
    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        if any(name.startswith("ref_") for name in columns):
            raise KeyError("ref")
        return super().forward(batch, columns)


def test_a_policy_may_answer_no_divergence() -> None:
    check_policy(Loads(AnswersNoDivergence), only=["distributions"])
