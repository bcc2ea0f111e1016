"""Who is asked on which process: a policy that is whole for a while, and rewards that all processes ask together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from alignzoo import Completion, Group, Prompt, Score
from alignzoo.batching import collate
from alignzoo.gathering import apart, is_collective
from alignzoo.interfaces import PolicyInfo
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward, score
from alignzoo.testing import ToyPolicy


class Sharded(ToyPolicy):
    """Says whom it was gathered for."""

    def __init__(self, *, collective: bool = True) -> None:
        super().__init__()
        self.collective, self.inside = collective, list[Collection[str]]()

    def info(self) -> PolicyInfo:
        return PolicyInfo(collective=self.collective)

    @contextmanager
    def gathered(self, roles: Collection[str] = ()) -> Iterator[None]:
        self.inside.append(list(roles))
        yield


@dataclass(frozen=True)
class Asks:
    asks_roles: tuple[str, ...] = ("ref", "")


@dataclass(frozen=True)
class Together:
    """A reward whose own model is sharded."""

    collective: bool = True

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        asked.append(len(groups))
        return [tuple(Score(1.0) for _ in group.completions) for group in groups]


@dataclass(frozen=True)
class Holds:
    """A part with others in its fields."""

    parts: tuple[Any, ...]

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return self.parts[0].score(groups, policy)  # type: ignore[no-any-return]


asked: list[int] = []


@pytest.mark.parametrize(
    ("parts", "generates", "expected"),
    [((), False, []), ((), True, [[]]), ((Asks(),), False, [["ref"]]), (([Holds((Asks(),))],), True, [["ref"]])],
)
def test_a_sharded_policy_is_gathered_for_whoever_asks_it(
    parts: tuple[Any, ...], generates: bool, expected: list[list[str]]
) -> None:
    policy, whole = Sharded(), Sharded(collective=False)
    for each in (policy, whole):
        with apart(each, *parts, generates=generates):
            pass
    assert policy.inside == expected and whole.inside == []


def test_a_collective_reward_is_asked_where_there_is_nothing_to_score() -> None:
    assert is_collective(Holds((Together(),))) and not is_collective(Holds((Asks(),)))
    asked.clear()
    for source in (Together(), Holds((Together(),)), Together(collective=False)):
        assert score([], [WeightedReward("sharded", source)], ToyPolicy()) == []
    assert asked == [0, 0], "the third one is not"


def test_company_is_a_row_that_makes_the_same_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process has one pass over rows of 5, 2 and 3 tokens, and the other has two: the first computes the
    shortest that has anything to answer, which the row of 2 tokens has not."""
    rows = ((1, 2, 3, 4), (5,), (6, 7))
    batch = collate([Group(Prompt(""), (9,), (Completion(each, "", True),), (Score(0.0),)) for each in rows])
    batch = replace(batch, mask=batch.mask & (batch.row != 1)[:, None])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("alignzoo.processes.everyones", lambda value: [value, value])
    rounds = MicroBatcher(Sharded(), rows=1).rounds(batch)
    assert [(each.batch.row.tolist(), each.idle) for each in rounds] == [([0], False), ([2], True)]
