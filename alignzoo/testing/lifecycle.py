"""The checks of parts that hold something open, and of parts that change with the steps: alike for every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from alignzoo.interfaces import Context, HasNext, Opens
from alignzoo.lifecycle import Opening, closed, live_of, made_anew, parts_in
from alignzoo.lifecycle import successor as following
from alignzoo.testing.laws import Attempt, Given
from alignzoo.training import checkpoint
from alignzoo.types import Group, StepReport

STATE = "state kept outside of the fields, or in a field that is not what it is annotated as"


def opens(part: Any, given: Given) -> None:
    """What it opens is not in its fields, can be closed and opened again, and stays open in a successor."""
    if not isinstance(part, Opens):
        return
    cause = "a model or a connection in a field, or one that all parts of a class share: return it from open()"
    attempt = Attempt(3, "opened and closed twice", cause)
    known = closed(part)
    with attempt.runs("open() and close()"):
        with Opening(Context()) as opening:
            first = opening.open(known, "")
            held = live_of(first)
            attempt.require(first == known, f"fields as they were, {known!r}"[:200], repr(first)[:200])
            if isinstance(known, HasNext):
                later = following(first, report(1, ()))
                attempt.require(live_of(later) is held, "a successor with the same thing open", "another one")
        with Opening(Context()) as opening:
            again = live_of(opening.open(known, ""))
    shared = hasattr(held, "close") and again is held
    attempt.require(not shared, "another thing, since the first has been closed", "the closed one")


def succeeds(part: Any, work: Callable[[Any, int], Sequence[Group]]) -> None:
    """Hold the successors of two steps to it: pure, back whole from a checkpoint, nothing made anew.

    `work` has the part do a step's work, and gives the step's groups.
    """
    if not isinstance(part, HasNext) and not parts_in(part):
        return
    attempt = Attempt(7, "two steps, then a checkpoint", STATE)
    later: Any = closed(part)
    for step in (1, 2):
        told = report(step, work(later, step))
        again = made_anew(later)
        attempt.require(not again, "all that a step makes to be in the fields, or returned by open()", ", ".join(again))
        with attempt.runs("next()"):
            one, other = following(later, told), following(later, told)
        attempt.require(type(one) is type(part), f"next() returns a {type(part).__name__}", repr(one)[:160])
        attempt.require(one == other, "the same successor twice", "another one")
        later = one
    with attempt.runs("a checkpoint"):
        restored = checkpoint.restored(part, json.loads(json.dumps(checkpoint.state_of(later))))
    attempt.require(restored == later, f"a successor like {str(later)[:160]}", str(restored)[:160])


def report(step: int, groups: Sequence[Group]) -> StepReport:
    """A step of three, with these groups."""
    return StepReport(step, 3, {"completions": float(len(groups)), "reward/mean": 1.0}, tuple(groups))
