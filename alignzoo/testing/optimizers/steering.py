"""What `next` makes of the reports: how fast it follows, where it rests, and from what it is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from alignzoo.interfaces import HasNext, Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.measure import REPORTED
from alignzoo.testing.optimizers.scene import Pull, pull_of, scene
from alignzoo.traits import traits_of
from alignzoo.types import StepReport

USUAL = dict.fromkeys((*REPORTED, "reward/mean", "approx_kl", "loss/kl"), 0.01)
FAMILY = ("kl", "approx_kl", "loss/kl")


def _numbers(part: Any) -> dict[str, float]:
    """Its fields that are numbers, by name."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return {n: float(v) for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _after(attempt: Attempt, part: Any, steps: int, figures: Callable[[int], Mapping[str, float]]) -> Any:
    """What it is after so many steps."""
    for step in range(1, steps + 1):
        with attempt.runs("next()"):
            part = part.next(StepReport(step, 400, {**USUAL, **figures(step), "completions": 8.0}))
    return part


def rates(optimizer: Optimizer, given: Given) -> None:
    """What follows the reports follows faster with a larger `rate`, slower with more `momentum`, `decay`, `horizon`."""
    if not isinstance(optimizer, HasNext):
        return
    found = pull_of(Attempt(13, "two pairs", ""), optimizer, scene([3] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given))
    names = {"reward/mean", "kl", *(found.terms.metrics if found is not None else ())}
    for name, value in _numbers(optimizer).items():
        kind = name.rpartition("_")[2]
        if kind not in ("rate", "momentum", "decay", "horizon") or isinstance(getattr(optimizer, name), int):
            continue
        attempt = Attempt(13, f"steps of which the last reports more, and two values of {name}", "1 - it for it")
        moved = []
        for each in (value, 3 * value) if kind == "horizon" else (0.3, 0.6):
            part = _set(optimizer, name, each)
            if part is None:
                break
            last = [_after(attempt, part, 4, _ending(names, level)) for level in (1.0, 0.01)]
            one, other = (_numbers(each) for each in last)
            moved.append({n: abs(one[n] - other[n]) for n in one})
        for follower in moved[0] if len(moved) == 2 else ():
            less, more = (each[follower] for each in moved)
            if max(less, more) > 1e-9:
                pace, holds = ("faster", more >= less - 1e-9) if kind == "rate" else ("slower", more <= less + 1e-9)
                attempt.require(
                    holds, f"{follower} to move {pace} with a larger {name}", f"{less:.4g}, then {more:.4g}"
                )


def _ending(names: set[str], level: float) -> Callable[[int], Mapping[str, float]]:
    """Reports of which the fourth tells this level."""
    return lambda step: dict.fromkeys(names, level if step == 4 else 0.01)


def _set(optimizer: Any, name: str, value: float) -> Any:
    """The optimizer with this setting, and with a target wherever it is without; None where it refuses to take it."""
    targets = {n: 0.1 for n, level in _numbers(optimizer).items() if n.endswith("_target") and level == 0}
    try:
        return dataclasses.replace(optimizer, **{name: value, **targets})
    except (ValueError, TypeError):
        return None


def at_target(optimizer: Optimizer, given: Given) -> None:
    """Where the KL is at `kl_target`, the coefficient that it steers rests."""
    if not isinstance(optimizer, HasNext) or "kl_target" not in _numbers(optimizer):
        return
    target = _numbers(optimizer)["kl_target"] or 3.0
    part = dataclasses.replace(optimizer, kl_target=target)  # type: ignore[type-var]
    cause = "a KL per token compared with a target per answer, or a target with a factor of its own"
    attempt = Attempt(13, f"a step whose KL is at kl_target = {target:g}, in answers of 20 tokens", cause)

    def reported(level: float) -> dict[str, float]:
        figures = {"length": 20.0, "length/mean": 20.0, **dict.fromkeys(FAMILY, level)}
        return _numbers(_after(attempt, part, 1, lambda step: figures))

    low, rest, high = (reported(factor * target) for factor in (0.01, 1.0, 100.0))
    for name, now in _numbers(part).items():
        if name == (traits_of(optimizer).kl_weight or name) and low[name] != high[name]:
            attempt.require(abs(rest[name] - now) < 1e-9, f"{name} to stay at {now:.6g}", f"{rest[name]:.6g}")


def carried(optimizer: Optimizer, given: Given) -> None:
    """Where a mean of its own figures that it carries has come to rest, answers are measured from it alone."""
    if not isinstance(optimizer, HasNext) or not {"logprobs", "ref_logprobs"} <= optimizer.needs:
        return
    if "old_logprobs" in optimizer.needs:
        return  # it is no mean of implicit rewards
    cause = "the mean added where it is subtracted, or a mean of another figure"
    attempt = Attempt(13, "two groups, until the mean rests; then all answers farther above the reference", cause)
    batch = scene([3] * 6, [0, 0, 0, 1, 1, 1], [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], given)
    rests = []
    for rise in (0.0, 2.0):
        own = torch.tensor([-0.8, -1.1, -0.9, -1.2, -1.0, -0.7]) + rise
        part: Any = optimizer
        for _ in range(300):
            found = pull_of(attempt, part, batch, {"logprobs": own, "ref_logprobs": -1.0})
            if found is None:
                return
            part = _after(attempt, part, 1, _own(found))
        found = pull_of(attempt, part, batch, {"logprobs": own, "ref_logprobs": -1.0})
        if found is None:
            return
        rests.append((_numbers(part), found.rows()))
    (first, pulls), (second, others) = rests
    if any(abs(first[name] - second[name]) > 1e-3 for name in first):
        attempt.near("pulls", pulls, others, 2e-3 * float(pulls.abs().max()) + 1e-7)


def _own(found: Pull) -> Callable[[int], Mapping[str, float]]:
    """Reports of the means of a step's own figures."""
    means = {name: float(value.detach().float().mean()) for name, value in found.terms.metrics.items()}
    return lambda step: means
