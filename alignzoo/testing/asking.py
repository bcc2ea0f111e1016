"""How the checks of policies load, generate and ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.decoding import Decoding
from alignzoo.interfaces import Policy, PolicySpec
from alignzoo.policies import lacking
from alignzoo.testing.laws import Attempt, Given
from alignzoo.types import Batch, Group, Prompt

GREEDY = Decoding(greedy=True)
WRITER = frozenset({"logprobs", "entropy", "values"})
"""What a writer with a critic answers; a scorer answers `scores`."""

LOGPROBS = frozenset({"logprobs"})

TOLERANCE = 2e-4
"""The tolerance for answers that pass through other shapes, in float32."""


def plain_prompts(given: Given) -> list[Prompt]:
    return given.asked(conversations=False)


def loaded(attempt: Attempt, spec: PolicySpec, needs: frozenset[str]) -> Policy:
    with attempt.runs(f"load({sorted(needs)})"):
        policy = spec.load(needs)
    attempt.require(not (wrong := lacking(policy)), "a Policy", wrong)
    return policy


def generated(attempt: Attempt, policy: Policy, given: Given, n: int = 3) -> list[Group]:
    with attempt.runs("generate()"):
        return policy.generate(plain_prompts(given), n, seeds=fn.seeds(len(plain_prompts(given)), 0))


def batch_of(groups: list[Group], policy: Policy) -> Batch:
    return collate(groups, policy.device, scored=False)


def answered(attempt: Attempt, policy: Policy, batch: Batch, columns: frozenset[str] = WRITER) -> dict[str, Tensor]:
    with attempt.runs(f"forward({sorted(columns)})"), torch.no_grad():
        out = policy.forward(batch, columns)
    return {name: column for name, column in vars(out).items() if isinstance(column, Tensor)}


@contextmanager
def weights_moved(policy: Policy) -> Iterator[None]:
    """Inside, every trained weight is another; afterwards as before."""
    state = {name: tensor.clone() for name, tensor in policy.state().items()}
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in policy.parameters():
            for parameter in group["params"]:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng).to(parameter)
    try:
        yield
    finally:
        policy.restore(state)
