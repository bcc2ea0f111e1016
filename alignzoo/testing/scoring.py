"""How the checks of rewards score: made-up groups, or those of the prompts given, and scores that are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from alignzoo.interfaces import Policy, RewardSource
from alignzoo.rewards import LARGEST
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.world import toy_policy
from alignzoo.types import Group, Score

CLOSE = 1e-4
"""How far two scores may be apart, relative to their size: models round by what else is in their batch."""

Rows = list[tuple[Score, ...]]


def writer(given: Given) -> Policy:
    return given.policy or toy_policy(drift=0.1)


def encoded(given: Given) -> list[Group]:
    """The prompts with the completions that come with them, encoded."""
    policy = writer(given)
    prompts = given.asked()
    return [policy.encode(prompt, prompt.completions) for prompt in prompts if prompt.completions]


def scores_of(attempt: Attempt, reward: RewardSource, groups: Sequence[Group], given: Given) -> Rows:
    with attempt.runs("score()"):
        return reward.score(groups, writer(given))


def fits(attempt: Attempt, groups: Sequence[Group], scores: Rows) -> None:
    """One finite score or abstention per completion."""
    attempt.require(len(scores) == len(groups), f"{len(groups)} tuples, one a group", str(len(scores)))
    for group, given in zip(groups, scores, strict=True):
        n = len(group.completions)
        attempt.require(len(given) == n, f"{n} scores, one a completion", str(len(given)))
        for completion, score in zip(group.completions, given, strict=True):
            attempt.require(isinstance(score, Score), "a Score", type(score).__name__)
            numbers = [*(score.tokens or ()), *score.parts.values(), *([] if score.value is None else [score.value])]
            finite = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
            attempt.require(finite, "finite numbers, or None for an abstention", repr(score)[:200])
            sized = score.value is None or abs(score.value) <= LARGEST
            attempt.require(sized, f"a value of at most {LARGEST:g} in size", f"{score.value}")
            if score.tokens is not None:
                m = len(completion.tokens)
                attempt.require(len(score.tokens) == m, f"{m} token rewards", str(len(score.tokens)))
                others = [r for r, mine in zip(score.tokens, completion.trained, strict=True) if r and not mine]
                attempt.require(not others, "a token reward of 0 for what is not trained on", str(others[:3]))


def same(attempt: Attempt, what: str, expected: Rows, found: Rows) -> None:
    attempt.require(len(expected) == len(found), f"{len(expected)} groups {what}", str(len(found)))
    for before, after in zip(expected, found, strict=True):
        for a, b in zip(before, after, strict=True):
            attempt.require(near(a.value, b.value), f"{a.value} {what}", str(b.value))
            dense = len(a.tokens or ()) == len(b.tokens or ()) and all(map(near, a.tokens or (), b.tokens or ()))
            attempt.require(dense, f"the token rewards {str(a.tokens)[:100]} {what}", str(b.tokens)[:100])


def near(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= CLOSE * max(1.0, abs(a))


def only(group: Group, rows: Sequence[int]) -> Group:
    """Some of a group's completions, with their labels."""
    labels = tuple(group.prompt.labels[i] for i in rows) if group.prompt.labels else ()
    given = tuple(group.prompt.completions[i] for i in rows) if group.prompt.completions else ()
    prompt = replace(group.prompt, completions=given, labels=labels)
    return replace(group, prompt=prompt, completions=tuple(group.completions[i] for i in rows))
