"""The checks of what a sampler says of generated text: its end, its words, its version, its scores, its seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
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
    """The toy policy, which remembers what it has generated as itself, and not as another role; its texts have capital
    letters, and spaces at both ends."""

    def __init__(self, other: ToyPolicy) -> None:
        self.__dict__.update(other.__dict__)
        self.said: dict[tuple[tuple[int, ...], tuple[int, ...]], Completion] = {}
        self.times: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
        self.drawn: Counter[tuple[tuple[int, ...], int, str]] = Counter()
        """After which tokens it has been asked, with which seed and settings, but for greedy answers."""
        self.greedy: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        """What it has generated greedily, and not drawn as well."""
        self.made = 0
        """How many completions it has been asked for, as whoever it answered."""

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        found = super().go_on(prefixes, n, seeds=seeds, decoding=decoding)
        found = [[replace(each, text=f" {each.text} Ab ", policy_version=VERSION) for each in some] for some in found]
        self.made += n * len(found)
        if self._answering is self.weights:
            if not decoding.greedy:
                self.drawn.update(
                    (tuple(start), seed, repr(decoding)) for start, seed in zip(prefixes, seeds, strict=True)
                )
            said = {(tuple(prefix), each.tokens) for prefix, some in zip(prefixes, found, strict=True) for each in some}
            self.greedy = self.greedy | (said - self.said.keys()) if decoding.greedy else self.greedy - said
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
    part, prompt = _with_n(sampler, 3), given.asked()[0]
    with attempt.runs("sample()"):
        found = [part.sample([prompt], toy_policy(drift=0.1), seeds=[seed])[0] for seed in (7, 8, 9, 10)]
    pairs = [
        (one.completions[i + 1].tokens, other.completions[i].tokens)
        for one, other in pairwise(found)
        for i in range(min(len(one.completions), len(other.completions)) - 1)
    ]
    met = len(pairs) > 1 and all(one == other for one, other in pairs) and len({one for one, _ in pairs}) > 1
    attempt.require(not met, "other completions", "those of the next seed, one place on")
    cause = "a seed that is divided, counted on, or cut to a few values: hand on what it is given, or derive it"
    attempt = Attempt(3, "one prompt with 28 seeds, four of them neighbours", cause)
    drawn: set[tuple[tuple[int, ...], int, str]] = set()
    for seed in (7, 8, 9, 10, *fn.seeds(24, 3)):
        policy = _Remembered(toy_policy(drift=0.1))
        with attempt.runs("sample()"):
            part.sample([prompt], policy, seeds=[seed])
        again = drawn & policy.drawn.keys()
        attempt.require(not again, "no draw that another seed has made as well", f"{len(again)} such")
        drawn |= policy.drawn.keys()


def _with_n(sampler: Sampler, n: int) -> Any:
    """The sampler with so many completions for each prompt, where it has a setting `n` that may be so many."""
    if not is_dataclass(sampler) or isinstance(sampler, type) or all(f.name != "n" for f in fields(sampler)):
        return sampler
    with suppress(ValueError, TypeError):
        return replace(sampler, n=n)
    return sampler


def drawn_once(sampler: Sampler, given: Given) -> None:
    """No draw is made twice in a call: the same seed after the same tokens brings the same again."""
    if given.policy is not None or not sampler.online:
        return
    cause = "two halves of a group generated with the same seed: derive another one for each"
    policy = _Remembered(toy_policy(drift=0.1))
    attempt = Attempt(3, "what the policy is asked for in one call", cause)
    _sampled(attempt, sampler, given.asked(), policy, 0)
    again = [each for each, times in policy.drawn.items() if times > 1]
    attempt.require(not again, "each seed once after the same tokens", f"{len(again)} more than once")


def greedy_marked(sampler: Sampler, given: Given) -> None:
    """A greedy answer beside drawn ones is told from these: by a column, or by having no log-probabilities."""
    if given.policy is not None or not sampler.online:
        return
    cause = "a greedy answer that counts as a sample: give it logprobs=None, or a column of its own in Group.extra"
    attempt = Attempt(11, "several prompts", cause)
    policy = _Remembered(toy_policy(drift=0.1))
    for group in _sampled(attempt, _with_n(sampler, 3), given.asked(), policy, 0):
        kinds = [(tuple(group.prompt_tokens), each.tokens) in policy.greedy for each in group.completions]
        drawn = {_columns(group, place) for place, greedy in enumerate(kinds) if not greedy}
        for place, completion in enumerate(group.completions):
            unmarked = kinds[place] and completion.logprobs is not None and _columns(group, place) in drawn
            attempt.require(not unmarked, "a greedy answer that is marked", f"one like the drawn, {completion.text!r}")


def _columns(group: Group, place: int) -> tuple[Any, ...]:
    return tuple(column[place] for column in group.extra.values())


def asks_more(sampler: Sampler, given: Given) -> None:
    """With a larger `n` more completions are asked of the policy or brought, unless one is all that is written."""
    if given.policy is not None or not sampler.online:
        return
    attempt = Attempt(11, "two prompts, and n = 2, 5 and 9", "n that is not handed on, or not beyond some number")
    made, brought = [], []
    for part in (part for n in (2, 5, 9) if (part := _with_n(sampler, n)) is not sampler):
        policy = _Remembered(toy_policy(drift=0.1))
        groups = _sampled(attempt, part, given.asked()[:2], policy, 0)
        made.append(policy.made)
        brought.append(sum(len(group.completions) for group in groups))
    rises = all(any(one < other for one, other in both) for both in zip(pairwise(made), pairwise(brought), strict=True))
    found = f"{made} asked for, {brought} brought"
    attempt.require(rises or not any(made) or set(made) == {2}, "more completions with each", found)


def fresh(sampler: Sampler, given: Given) -> None:
    """What is brought as just generated has been generated in this call, and not in an earlier one."""
    if given.policy is not None or not sampler.online:
        return
    cause = "generated text that is kept from call to call: give it the policy_version that it was generated at"
    attempt = Attempt(11, "the same prompts and seeds again, after the weights have moved", cause)
    before, policy = (_Remembered(toy_policy(drift=0.1)) for _ in range(2))
    _sampled(attempt, sampler, given.asked(), before, 0)
    policy.drift(0.5, 9)
    for group in _sampled(attempt, sampler, given.asked(), policy, 0):
        for completion in group.completions:
            what = tuple(group.prompt_tokens), completion.tokens
            stale = what in before.said and what not in policy.said and completion.logprobs is not None
            attempt.require(not stale, "completions of this call", f"one of the call before, {completion.text[:40]!r}")


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
