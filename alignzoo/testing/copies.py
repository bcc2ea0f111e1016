"""The check of a policy's copy that generates ahead: as the policy was, until it is brought up to date."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.errors import ModelError
from alignzoo.interfaces import HasBehaviour, Policy, PolicySpec
from alignzoo.testing.asking import (
    LOGPROBS,
    TOLERANCE,
    WRITER,
    answered,
    batch_of,
    loaded,
    plain_prompts,
    weights_moved,
)
from alignzoo.testing.laws import Attempt, Given
from alignzoo.types import Batch, Prompt

AHEAD = WRITER | {"ref_logprobs"}


@dataclass(frozen=True)
class _Said:
    """What a policy generates, and how likely it finds what is given."""

    tokens: list[tuple[int, ...]]
    answers: Tensor


def behaviour(spec: PolicySpec, given: Given) -> None:
    """A policy's copy is as the policy was, in a thread beside its training, too, until it is brought up to date."""
    attempt = Attempt(3, "behaviour(), then other weights", "weights, a cache or an engine that the two share")
    policy, prompts = loaded(attempt, spec, AHEAD), plain_prompts(given)[:2]
    if not isinstance(policy, HasBehaviour):
        return
    with attempt.runs("behaviour()"):
        try:
            copied = policy.behaviour()
        except ModelError:  # the contract's way to say that there can be none
            return
    batch = batch_of(policy.generate(prompts, 2, seeds=fn.seeds(len(prompts), 0)), policy)
    start = _said(attempt, policy, prompts, batch)
    _same(replace(attempt, given="behaviour()"), start, _said(attempt, copied, prompts, batch))
    with weights_moved(policy):
        now = _said(attempt, policy, prompts, batch)
        attempt.require(bool((now.answers != start.answers).any()), "a policy that has moved", "the same answers")
        _same(attempt, start, _said(attempt, copied, prompts, batch))
        state, names = policy.state(), tuple(copied.state())
        known = replace(attempt, law=7, given="the copy's state()", cause="names of its own, or none")
        known.require(bool(names) and set(names) <= state.keys(), f"some of {sorted(state)}", str(sorted(names)))
        with attempt.runs("the copy's restore()"):
            copied.restore({name: state[name].detach().clone() for name in names})
        behind = replace(known, given="restore() of the policy's state", cause="a tensor that the copy's state() lacks")
        _same(behind, now, _said(attempt, copied, prompts, batch))
    _same(attempt, now, _said(attempt, copied, prompts, batch))
    found = _meanwhile(attempt, policy, copied, prompts, batch)
    _same(replace(attempt, given="generate() in a thread, while the policy is trained"), now, found)
    own = replace(attempt, given="the policy, after its copy was brought up to date")
    _same(own, start, _said(attempt, policy, prompts, batch))


def _said(attempt: Attempt, policy: Policy, prompts: list[Prompt], batch: Batch) -> _Said:
    with attempt.runs("generate()"):
        groups = policy.generate(prompts, 2, seeds=fn.seeds(len(prompts), 0))
    answers = answered(attempt, policy, batch, LOGPROBS)["logprobs"]
    return _Said([each.tokens for group in groups for each in group.completions], answers)


def _same(attempt: Attempt, expected: _Said, found: _Said) -> None:
    attempt.require(found.tokens == expected.tokens, "the same completions", "others")
    attempt.near("log-probabilities", expected.answers, found.answers, TOLERANCE)


def _meanwhile(attempt: Attempt, policy: Policy, copied: Policy, prompts: list[Prompt], batch: Batch) -> _Said:
    """What the copy says in a thread, while gradients of the policy are computed and its weights moved."""
    begun, done = threading.Event(), threading.Event()

    def say() -> _Said:
        begun.set()
        try:
            return _said(attempt, copied, prompts, batch)
        finally:
            done.set()

    with attempt.runs("optimize()"):
        policy.optimize(lambda groups: torch.optim.SGD(groups, lr=0.0))
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(say)
        begun.wait()
        while True:
            with weights_moved(policy), attempt.runs("forward() and backward() while the copy generates"):
                policy.backward(policy.forward(batch, LOGPROBS)["logprobs"].sum())
                policy.drop_gradients()
            if done.is_set():
                return task.result()
