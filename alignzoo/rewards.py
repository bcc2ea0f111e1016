"""Rewards: each source asked, its answers checked, and combined into one score a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignzoo.errors import AlignzooError, RewardError
from alignzoo.gathering import is_collective
from alignzoo.interfaces import Policy, RewardSource
from alignzoo.lifecycle import Opening
from alignzoo.surroundings import staying
from alignzoo.types import Group, Score

LARGEST = 1e15
"""A reward's size at most: a batch computes in float32, where the squares that a standard deviation adds up would
overflow not far above it."""


@dataclass(frozen=True)
class WeightedReward:
    """One of a run's reward sources."""

    name: str
    """How its part is called in the metrics."""
    source: RewardSource
    weight: float = 1.0


def opened_rewards(opening: Opening, rewards: Sequence[WeightedReward]) -> list[WeightedReward]:
    """The rewards, open."""
    return [replace(each, source=opening.open(each.source, f"reward-{each.name}")) for each in rewards]


def source_weights(rewards: Sequence[WeightedReward]) -> dict[str, float]:
    """The weight of each reward by its name, for `batching.collate`."""
    return {reward.name: reward.weight for reward in rewards}


def score(groups: Sequence[Group], rewards: Sequence[WeightedReward], policy: Policy) -> list[Group]:
    """The groups with one combined score per completion: Σ weight·value; each source by itself in `sources`.

    Groups that come with scores keep them, and no reward is asked about these. A source that abstains adds nothing to
    that completion; when all abstain, the completion has no score. Raises RewardError when a source raises, or answers
    anything but one finite number or None per completion.
    """
    new = [group for group in groups if group.scores is None]
    answers = [_ask(reward, new, policy) for reward in rewards if new or is_collective(reward.source)]
    scored = (_combined(group, rewards, [answer[i] for answer in answers]) for i, group in enumerate(new))
    return [next(scored) if group.scores is None else group for group in groups]


def _combined(group: Group, rewards: Sequence[WeightedReward], answers: Sequence[tuple[Score, ...]]) -> Group:
    """The group with what all rewards together say of each completion."""
    n = len(group.completions)
    return replace(group, scores=tuple(_combine(rewards, [answer[i] for answer in answers]) for i in range(n)))


def _ask(reward: WeightedReward, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
    try:
        with staying(f"the reward {reward.name!r}"):
            answer = reward.source.score(groups, policy)
    except (AlignzooError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a sys.exit, a PanicException of pyo3
        raise RewardError(
            f"the reward {reward.name!r} raised {type(error).__name__}: {error}. Call it by hand on one prompt and "
            "completion to see why; --debug shows where."
        ) from error
    if len(answer) != len(groups):
        raise RewardError(f"the reward {reward.name!r} answered {len(answer)} groups, expected {len(groups)}")
    for group, scores in zip(groups, answer, strict=True):
        _check(reward.name, group, scores)
    return answer


def _check(name: str, group: Group, scores: Sequence[Score]) -> None:
    if len(scores) != len(group.completions):
        raise RewardError(
            f"the reward {name!r} gave {len(scores)} scores for {len(group.completions)} completions of "
            f"{str(group.prompt.messages)[:80]!r}: one per completion is expected"
        )
    for completion, given in zip(group.completions, scores, strict=True):
        numbers = [] if given.value is None else [given.value]
        numbers += given.tokens or ()
        if wrong := [number for number in numbers if not _fits(number)]:
            raise RewardError(
                f"the reward {name!r} gave {wrong[0]!r} for {completion.text[:80]!r}: a finite number of at most "
                f"{LARGEST:g} in size is expected, or None to abstain"
            )
        if given.tokens is not None and len(given.tokens) != len(completion.tokens):
            raise RewardError(
                f"the reward {name!r} gave {len(given.tokens)} token rewards for {len(completion.tokens)} tokens"
            )


def _fits(number: Any) -> bool:
    try:
        return bool(abs(number) <= LARGEST)  # a NaN is not
    except TypeError:
        return False


def _combine(rewards: Sequence[WeightedReward], scores: Sequence[Score]) -> Score:
    parts: dict[str, float] = {}
    sources: dict[str, float] = {}
    value: float | None = None
    dense: list[float] | None = None
    for reward, given in zip(rewards, scores, strict=True):
        parts |= {f"{reward.name}/{part}": number for part, number in given.parts.items()}
        if given.value is not None:
            parts[reward.name] = sources[reward.name] = given.value
            value = (value or 0.0) + reward.weight * given.value
        if given.tokens is not None:
            weighted = [reward.weight * number for number in given.tokens]
            dense = weighted if dense is None else [a + b for a, b in zip(dense, weighted, strict=True)]
    if value is not None and not abs(value) <= LARGEST:
        weighed = ", ".join(
            f"{each.weight:g}·{given.value or 0:g}" for each, given in zip(rewards, scores, strict=True)
        )
        raise RewardError(
            f"the weighted rewards {weighed} add up to {value:g}: at most {LARGEST:g} in size is expected"
        )
    note = "; ".join(given.note for given in scores if given.note)
    return Score(value, None if dense is None else tuple(dense), parts, note, sources)
