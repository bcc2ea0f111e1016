"""What names say: a figure by its name, a number in a column's name, a setting for one side; and no token's number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from alignzoo import columns
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import Level, Pull, learnt, noise, pull_of, runs, scene, variants

UP, DOWN = -0.5, -1.5
"""Log-probabilities per token of an answer that has risen, and of one that has fallen, since the reference said -1."""

AT_LEAST_0 = ("approx_kl", "loss/kl", "loss/value")
"""Figures that are distances, and so never below 0."""


def figures(optimizer: Optimizer, given: Given) -> None:
    """`accuracy`, `margin`, chosen and rejected rewards, clips and distances are what their names say."""
    cause = "a figure with its sign turned, the better and the worse exchanged, or multiplied by the weights"
    attempt = Attempt(8, "a good and a bad answer, the good one risen and the bad one fallen; and the reverse", cause)
    batch = scene([3, 2], [0, 0], [1.0, 0.0], given)
    for variant in variants(optimizer):
        if (variant.what and not variant.choice) or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        right, wrong = (pull_of(at, variant.part, batch, _risen(first)) for first in (True, False))
        if right is None or wrong is None or not learnt(right.on):
            continue
        for name, better in (("accuracy", 0.5), ("margin", None)):
            one, other = (_figure(each, name) for each in (right, wrong))
            if one is not None and other is not None and one != other:  # else it does not go by what has risen
                at.require(
                    one > other, f"a larger {name} where the good answer has risen", f"{one:.3g}, and {other:.3g}"
                )
                above = better is None or one > better > other
                at.require(above, f"{name} above and below ½", f"{one:.3g}, and {other:.3g}")
        chosen, rejected = (_figure(right, f"reward_{which}") for which in ("chosen", "rejected"))
        if chosen is not None and rejected is not None:
            at.require(chosen > rejected, "reward_chosen above reward_rejected", f"{chosen:.3g}, and {rejected:.3g}")
        for found in (right, wrong):
            for name in AT_LEAST_0:
                if name in found.terms.metrics:
                    least = float(found.terms.metrics[name].detach().min())
                    at.require(least >= -1e-6, f"{name} of 0 or more", f"{least:.3g}")


def _risen(first: bool) -> dict[str, Level]:
    """The first answer risen and the second one fallen, or the reverse; so are scores, values stay near."""
    own = torch.tensor([UP, DOWN] if first else [DOWN, UP])
    level: dict[str, Level] = {"logprobs": own, "old_logprobs": -1.0, "ref_logprobs": -1.0, "scores": 2 * (own + 1)}
    return level | {"values": 0.1, "old_values": 0.0, "token_scores": 2 * (own + 1)}


def _figure(found: Pull, name: str) -> float | None:
    """A figure's mean over rows, or over the tokens that count."""
    value = found.terms.metrics.get(name)
    if value is None or not len(value):
        return None
    value = value.detach()
    return float(value.mean() if value.ndim == 1 else value[found.prepared.mask].mean())


def token_numbers(optimizer: Optimizer, given: Given) -> None:
    """Which numbers tokens have says nothing: what is padding, or an end, says the mask."""
    cause = "the number of a padding or an end token compared with `tokens`: take `mask`, `attend`, `own`"
    attempt = Attempt(2, "the same columns, with tokens of the numbers 0 to 3 among others", cause)
    batch = scene([3, 2, 4, 3], [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], given)
    values: dict[str, Level] = {
        name: noise(batch, 0.1, seed) - 1.0 for seed, name in enumerate(("logprobs", "old_logprobs", "ref_logprobs"))
    }
    values["scores"] = noise(batch, 0.3, 3)[:, -1]
    other = replace(batch, tokens=torch.where(batch.mask, batch.tokens % 100 - 3, batch.tokens))
    pulls = [pull_of(attempt, optimizer, each, values) for each in (batch, other)]
    if pulls[0] is None or pulls[1] is None:
        return attempt.require(pulls[0] is pulls[1], "as many rows", "others")
    for name, column in pulls[0].on.items():
        attempt.same(f"pull on {name}", column, pulls[1].on[name])


def column_number(optimizer: Optimizer, given: Given) -> None:
    """A column whose number goes by a setting has that setting's number: `teacher_jsd:0.2` for a β of 0.2."""
    cause = "1 - β in the place of β: the divergence of the other direction"
    for field, value in _numbers(optimizer):
        for other in (0.3, 0.7):
            attempt = Attempt(2, f"{field} = {other} in the place of {value}", cause)
            try:
                part: Any = replace(optimizer, **{field: other})  # type: ignore[type-var]
                needs = part.needs
            except (ValueError, TypeError):
                continue
            changed = [columns.column(name).number for name in sorted(needs - optimizer.needs) if ":" in name]
            for number in changed:
                if number != other:
                    attempt.fail(f"a column with the number {other}", f"one with {number:g}")


def _numbers(optimizer: Any) -> Iterator[tuple[str, float]]:
    for each in dataclasses.fields(optimizer):
        value = getattr(optimizer, each.name)
        if each.init and isinstance(value, float):
            yield each.name, value


SIDES = {"desirable": 0, "undesirable": 1}
"""Settings that weigh the answers of one side, and its row in the scene: the good one, or the bad one."""


def sides(optimizer: Optimizer, given: Given) -> None:
    """A setting called `desirable` weighs the good answers, and one called `undesirable` the bad ones."""
    known = [each.name for each in dataclasses.fields(optimizer)]  # type: ignore[arg-type]
    batch = scene([2, 2], [0, 1], [1.0, 0.0], given)
    for name, row in SIDES.items():
        if name not in known:
            continue
        attempt = Attempt(13, f"a good and a bad answer, {name} as it is, and twice that", "the two exchanged")
        twice: Any = replace(optimizer, **{name: 2 * getattr(optimizer, name)})  # type: ignore[type-var]
        one, two = (pull_of(attempt, part, batch) for part in (optimizer, twice))
        if one is None or two is None:
            continue
        gains = (two.rows(learnt(two.on)).abs() - one.rows(learnt(one.on)).abs()).tolist()
        attempt.require(gains[row] > abs(gains[1 - row]), "a stronger pull on that side", f"changes of {gains}")
