"""The checks of what a sampler says of generated text: its end, its words, its version, its scores, its seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

from alignzoo import functional as fn
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.interfaces import Policy, Sampler
from alignzoo.requirements import brings, brings_scores
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.world import ToyPolicy, toy_policy
from alignzoo.types import Completion, Group, Prompt

VERSION = 17
"""The version by which what was generated is told from text that was only encoded."""


class _Remembered(ToyPolicy):
    """The toy policy, which remembers what it has generated as itself, and not as another role."""

    def __init__(self, other: ToyPolicy) -> None:
        self.__dict__.update(other.__dict__)
        self.said: dict[tuple[tuple[int, ...], tuple[int, ...]], Completion] = {}
        self.times: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        found = super().go_on(prefixes, n, seeds=seeds, decoding=decoding)
        found = [[replace(each, policy_version=VERSION) for each in some] for some in found]
        if self._answering is self.weights:
            for prefix, some in zip(prefixes, found, strict=True):
                self.said |= {(tuple(prefix), each.tokens): each for each in some}
                self.times.update((tuple(prefix), each.tokens) for each in some)
        return found


def _sampled(attempt: Attempt, sampler: Sampler, prompts: Sequence[Prompt], policy: Policy, seed: int) -> list[Group]:
    with attempt.runs("sample()"):
        return sampler.sample(prompts, policy, seeds=fn.seeds(len(prompts), seed))


def generated(sampler: Sampler, given: Given) -> None:
    """What the policy generated keeps its text, its end and its version."""
    if given.policy is not None or not sampler.online:
        return
    cause = "a completion cut off and called finished, or a field lost or made up where completions are built anew"
    attempt = Attempt(11, "what a policy of a few tokens generated", cause)
    policy = _Remembered(toy_policy(drift=0.1))
    prompts = given.asked()
    brought: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for group in _sampled(attempt, sampler, prompts, policy, 0):
        start = tuple(group.prompt_tokens)
        for completion in group.completions:
            known = policy.said.get((start, completion.tokens))
            if known is None or (completion.policy_version is None and completion.logprobs is None):
                _as_a_part(attempt, start, completion, policy)
                continue  # given, generated after another prompt, or its text encoded anew
            for name in ("text", "finished", "policy_version"):
                before, now = getattr(known, name), getattr(completion, name)
                attempt.require(before == now, f"{name} as it was generated, {before!r}", repr(now))
            brought[start, completion.tokens] += 1
    more = [each for each, times in brought.items() if times > policy.times[each]]
    attempt.require(not more, "no completion more often than it was generated", f"{len(more)} such")


def _as_a_part(attempt: Attempt, start: tuple[int, ...], completion: Completion, policy: _Remembered) -> None:
    """A beginning of what was generated is not finished."""
    n = len(completion.tokens)
    said = [tokens for prefix, tokens in policy.said if prefix == start]
    begun = any(tokens[:n] == completion.tokens and len(tokens) > n for tokens in said)
    attempt.require(not (begun and completion.finished), "a completion that was cut off to be unfinished", "finished")


def seeds_apart(sampler: Sampler, given: Given) -> None:
    """Neighbouring seeds have nothing in common: one's second completion is not the next one's first."""
    if given.policy is not None or not sampler.online:
        return
    attempt = Attempt(3, "one prompt with the seeds 7, 8, 9 and 10", "seed + i, which meets the next seed: derive it")
    part: Any = sampler
    if is_dataclass(part) and not isinstance(part, type) and any(f.name == "n" for f in fields(part)):
        part = replace(part, n=3)
    prompt = given.asked()[0]
    with attempt.runs("sample()"):
        found = [part.sample([prompt], toy_policy(drift=0.1), seeds=[seed])[0] for seed in (7, 8, 9, 10)]
    pairs = [
        (one.completions[i + 1].tokens, other.completions[i].tokens)
        for one, other in pairwise(found)
        for i in range(min(len(one.completions), len(other.completions)) - 1)
    ]
    met = len(pairs) > 1 and all(one == other for one, other in pairs) and len({one for one, _ in pairs}) > 1
    attempt.require(not met, "other completions", "those of the next seed, one place on")


def own_scores(sampler: Sampler, given: Given) -> None:
    """What is generated comes with scores where the sampler says so, and only there, since it is not scored again.
    Given answers beside it may have some."""
    cause = "scores made up in sample(), or brings_scores: ClassVar[bool] = True left out"
    attempt = Attempt(11, "a few prompts", cause)
    policy = given.policy or toy_policy(drift=0.1)
    scored = [g for g in _sampled(attempt, sampler, given.asked(), policy, 0) if g.scores]
    made = [group for group in scored if any(each.logprobs is not None for each in group.completions)]
    if not brings_scores(sampler):
        attempt.require(not made, "groups without scores, for brings_scores is not True", f"{len(made)} with some")
    for group in scored:
        n, m = len(group.completions), len(group.scores or ())
        attempt.require(n == m, f"{n} scores, one a completion", str(m))


def own_columns(sampler: Sampler, given: Given) -> None:
    """Every group has the columns that the sampler's trait `brings` names."""
    attempt = Attempt(11, "a few prompts", "brings: ClassVar[frozenset[str]] names a column that sample() leaves out")
    policy = given.policy or toy_policy(drift=0.1)
    named = brings(sampler)
    for group in _sampled(attempt, sampler, given.asked(), policy, 0) if named else ():
        attempt.require(named <= group.extra.keys(), f"Group.extra with {sorted(named)}", str(sorted(group.extra)))
