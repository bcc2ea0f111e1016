"""What an actor-critic makes of time: where a reward is expected, how far it reaches back, and who is silent."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, ConformanceError, Given
from alignzoo.testing.measure import answer, case, leaves, prepare, pull
from alignzoo.testing.optimizers.scene import Pull, pull_of, runs, scene, variants
from alignzoo.testing.world import toy_groups
from alignzoo.types import Batch


def right_critic(optimizer: Optimizer, given: Given) -> None:
    """A critic that expects at each token just the reward that comes has nothing to learn: it gets what it says."""
    cause = "returns a token early or late, or values read one off"
    attempt = Attempt(13, "answers of 1 to 4 tokens, and a critic that says each one's reward at each token", cause)
    batch = scene([1, 4, 3, 2], [0, 0, 1, 1], [1.0, 0.0, 2.0, 0.5], given)
    for variant in variants(optimizer):
        if "old_values" not in variant.part.needs or getattr(variant.part, "gamma", 1.0) != 1.0:
            continue
        if not runs(variant, attempt, batch):
            continue
        at, values = variant.of(attempt), batch.rewards
        twice = dataclasses.replace(batch, rewards=2 * batch.rewards)
        first, second = (pull_of(at, variant.part, each) for each in (batch, twice))
        found = pull_of(at, variant.part, batch, {"old_values": values, "values": values})
        if found is None or first is None or second is None or found.prepared.returns is None:
            return
        if not torch.allclose(2 * _returns(first), _returns(second), atol=1e-3):
            continue  # rewards are whitened first: `returns` speaks of them
        expected = values[found.origin][:, None] * found.prepared.mask
        at.near("returns as what the critic says", expected, found.prepared.returns, 1e-4)
    if any(field.name == "gamma" for field in dataclasses.fields(optimizer)):  # type: ignore[arg-type]
        _right_with_a_discount(attempt, dataclasses.replace(optimizer, gamma=0.5), batch)  # type: ignore[type-var]


def _right_with_a_discount(attempt: Attempt, part: Optimizer, batch: Batch) -> None:
    """A critic that says the reward as far discounted as it is away gets what it says, too."""
    if "old_values" not in part.needs:
        return
    attempt = dataclasses.replace(attempt, given=f"{attempt.given}, discounted by gamma = 0.5 for each token to come")
    twice = dataclasses.replace(batch, rewards=2 * batch.rewards)
    left = (batch.mask.flip(1).cumsum(1).flip(1) - 1).clamp(min=0)
    says = batch.rewards[:, None] * 0.5**left * batch.mask
    first, second = (pull_of(attempt, part, each) for each in (batch, twice))
    found = pull_of(attempt, part, batch, {"old_values": says, "values": says})
    if found is None or first is None or second is None or found.prepared.returns is None:
        return
    if torch.allclose(2 * _returns(first), _returns(second), atol=1e-3):
        attempt.near("returns as what the critic says", says[found.origin], found.prepared.returns, 1e-4)


def _returns(found: Pull) -> torch.Tensor:
    returns = found.prepared.returns
    assert returns is not None  # those of this optimizer are there
    return returns


def last_reward(optimizer: Optimizer, given: Given) -> None:
    """With any `gamma` the last token's return is its reward, however many tokens came before it."""
    if "old_values" not in optimizer.needs or not hasattr(optimizer, "gamma"):
        return
    cause = "a discount by a token's place in the answer, on top of that of the returns"
    attempt = Attempt(13, "answers of 1 to 4 tokens with the same reward at their end, gamma = 0.5", cause)
    batch = scene([1, 4, 3, 2], [0, 0, 1, 1], [1.0, 1.0, 1.0, 1.0], given)
    part: Any = dataclasses.replace(optimizer, gamma=0.5)  # type: ignore[type-var]
    found = pull_of(attempt, part, batch)
    if found is None or found.prepared.returns is None:
        return
    mask = found.prepared.mask
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    told = found.prepared.returns[last]
    attempt.require(float(told.max() - told.min()) <= 1e-4, "the same return of each last token", str(told.tolist()))


def discount(optimizer: Optimizer, given: Given) -> None:
    """With `gamma` or `lam` below 1 an early token has less of a late reward than the last one; with 1 as much."""
    names = [f.name for f in dataclasses.fields(optimizer)]  # type: ignore[arg-type]
    if "logprobs" not in optimizer.needs or not {"old_values", "old_logprobs"} & optimizer.needs:
        return  # the gamma of others is a margin
    cause = "a discount, or λ, by which something is divided that it should multiply, or 1 minus it in its place"
    attempt = Attempt(13, "answers of four tokens, rewarded at their end, and a critic that says 0", cause)
    batch = scene([4] * 4, [0, 0, 1, 1], [1.0, -1.0, 1.0, -1.0], given)
    for name in ("gamma", "lam"):
        if name in names:
            whole = dict.fromkeys({"gamma", "lam"} & set(names), 1.0)
            early, late = _credited(attempt, optimizer, batch, {**whole, name: 0.5})
            even = _credited(attempt, optimizer, batch, whole)
            found = f"{early:.3g} on the first token, {late:.3g} on the last"
            attempt.require(0 <= early < late, f"less credit for the first token with {name} = 0.5", found)
            alike = abs(even[0] - even[1]) <= 1e-4 * abs(even[1])
            attempt.require(alike, f"as much for the first with {name} = 1", f"{even[0]:.3g}, beside {even[1]:.3g}")


def _credited(attempt: Attempt, optimizer: Any, batch: Batch, changes: dict[str, float]) -> tuple[float, float]:
    """The pull on the first and on the last token of a good answer."""
    found = pull_of(attempt, dataclasses.replace(optimizer, **changes), batch)
    if found is None:
        raise ConformanceError(attempt.law, attempt.given, "rows to train on", "none", attempt.cause)
    row = found.on["logprobs"][0]
    return float(row[1]), float(row[4])


def weightless(optimizer: Optimizer, given: Given) -> None:
    """A row that `prepare` gives no weight gets no gradient from any other row's term."""
    if "logprobs" not in optimizer.needs:
        return
    cause = "a baseline made of other rows' log-probabilities, with the gradient: it lacks a detach()"
    attempt = Attempt(13, "ragged groups, of which prepare() leaves some rows without weight", cause)
    for seed in (0, 1):
        made = case(optimizer, toy_groups(seed, columns=given.columns))
        prepared = prepare(attempt, optimizer, made.batch)
        weights = prepared.weights if prepared.weights.ndim == 1 else prepared.weights.abs().sum(1)
        if not len(prepared) or not bool((weights == 0).any()):
            continue
        out = leaves(answer(optimizer, made.policy, prepared))
        gradient = pull(attempt, optimizer, prepared, out)["logprobs"]
        silent = gradient.reshape(len(prepared), -1).abs().sum(1)[weights == 0]
        most = float(silent.max())
        attempt.require(most <= 1e-9, "no gradient in a row without weight", f"{most:.3g}")
