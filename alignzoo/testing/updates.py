"""The checks of what a policy does with gradients: they add up, are scaled down to a norm, step at a rate, and go."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.interfaces import ParameterGroup, Policy, PolicySpec
from alignzoo.testing.laws import Attempt, Given
from alignzoo.types import Batch

RATE = 1e-2
LOGPROBS = frozenset({"logprobs"})


def updates(spec: PolicySpec, given: Given) -> None:
    """Gradients of micro-batches add up; a step goes by the rate and down to the norm, says that norm, and leaves none;
    one that is not finite moves nothing."""
    attempt = Attempt(1, "one loss, twice", "a gradient that is dropped, replaced, or left for the next step")
    with attempt.runs("load()"):
        policy = spec.load(LOGPROBS)
    prompts = given.asked(conversations=False)[:3]
    batch = collate(policy.generate(prompts, 2, seeds=fn.seeds(len(prompts), 0)), policy.device, scored=False)
    start = {name: tensor.clone() for name, tensor in policy.state().items()}

    def moved(*scales: float, lr: float = RATE, clip: float = 0.0, drop: bool = False) -> tuple[Tensor, float]:
        """How the weights move in a step along so many times the gradient of a loss, and the norm that is told."""
        policy.restore(start)
        with attempt.runs("optimize(), backward() and step()"):
            policy.optimize(lambda groups: torch.optim.SGD(groups, lr=1.0))
            for scale in scales:
                policy.backward(scale * _loss(policy, batch))
            if drop:
                policy.drop_gradients()
                policy.backward(_loss(policy, batch))
            norm = policy.step(lr, clip)
        return _difference(policy, start), norm

    try:
        _held(attempt, policy, batch, start, moved)
        cause = "moments that optimizer_state() leaves out"
        _moments(replace(attempt, law=7, given="two steps, stopped between", cause=cause), policy, batch, start)
    finally:
        policy.restore(start)


def _held(
    attempt: Attempt, policy: Policy, batch: Batch, start: dict[str, Tensor], moved: Callable[..., tuple[Tensor, float]]
) -> None:
    once, norm = moved(1.0)
    attempt.require(bool(once.any()), "weights that move", "none")
    _near(replace(attempt, given="two halves of a loss"), once, moved(0.25, 0.75)[0], "the move of the whole")
    dropped = replace(attempt, given="a gradient, drop_gradients(), then another", cause="gradients not dropped")
    _near(dropped, once, moved(3.0, drop=True)[0], "the move of the second alone")
    moved(1.0)
    now = {name: tensor.clone() for name, tensor in policy.state().items()}
    policy.backward(0.0 * _loss(policy, batch))
    policy.step(RATE, 0.0)
    _near(
        replace(attempt, given="a step, then one along 0"), torch.zeros_like(once), _difference(policy, now), "no move"
    )
    rate = replace(attempt, law=13, given="twice the rate", cause="a rate of its own, or the one of `optimize`")
    _near(rate, 2 * once, moved(1.0, lr=2 * RATE)[0], "twice the move")
    half, told = moved(1.0, clip=norm / 2)
    clip = replace(attempt, law=13, given="half the gradient's norm as `clip`", cause="a clip left out, or by tensor")
    _near(clip, once / 2, half, "half the move, in the same direction")
    same = math.isclose(told, norm, rel_tol=1e-3)
    clip.require(same, f"the norm before it is scaled down, {norm:.4g}", f"{told:.4g}")
    hard = replace(attempt, law=4, given="a loss of infinity", cause="a step along numbers that are none")
    away, norm = moved(math.inf)
    hard.require(not math.isfinite(norm), "a norm that is not finite", f"{norm:.4g}")
    hard.require(not away.any(), "no weight moved", "some")


def _moments(attempt: Attempt, policy: Policy, batch: Batch, start: dict[str, Tensor]) -> None:
    """A torch optimizer's state, taken after a step and given to another one, steps on as the first one does."""
    states = []
    for resumed in (False, True):
        policy.restore(start)
        policy.optimize(_adam)
        for step in range(2):
            if step and resumed:
                state = copy.deepcopy(policy.optimizer_state())
                policy.optimize(_adam)
                policy.restore_optimizer(state)
            policy.backward(_loss(policy, batch) * (1 + 2 * step))
            policy.step(RATE, 0.0)
        states.append(_difference(policy, start))
    _near(attempt, states[0], states[1], "the move of the torch optimizer that was not stopped")


def _adam(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=RATE)


def _loss(policy: Policy, batch: Batch) -> Tensor:
    out = policy.forward(batch, LOGPROBS)
    assert out.logprobs is not None
    return -out.logprobs.sum() / len(batch)


def _difference(policy: Policy, start: dict[str, Tensor]) -> Tensor:
    """How far all weights are from where they were."""
    return torch.cat([(tensor - start[name]).double().flatten().cpu() for name, tensor in policy.state().items()])


def _near(attempt: Attempt, expected: Tensor, found: Tensor, what: str) -> None:
    size = max(float(expected.norm()), 1e-9)
    away = float((expected - found).norm())
    attempt.require(away <= 1e-2 * size, what, f"one that is {away / size:.3g} of it away")
