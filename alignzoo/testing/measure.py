"""What the checks of optimizers share: a case, and the objective as the runner adds it up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from alignzoo import columns
from alignzoo import functional as fn
from alignzoo.batching import collate, fill, only, trim
from alignzoo.interfaces import Optimizer
from alignzoo.roles import specs_of
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.world import TOY_WEIGHTS, ToyPolicy, toy_groups, toy_policy
from alignzoo.traits import traits_of
from alignzoo.types import Batch, Forward, Group, StepReport, Terms


def prepare(attempt: Attempt, optimizer: Optimizer, batch: Batch) -> Batch:
    """What `prepare` makes of the batch."""
    with attempt.runs("prepare"):
        return optimizer.prepare(batch)


def loss(attempt: Attempt, optimizer: Optimizer, batch: Batch, out: Forward) -> Terms:
    """What `loss` answers."""
    with attempt.runs("loss"):
        return optimizer.loss(batch, out)


@dataclass(frozen=True)
class Case:
    """A policy and a batch with the columns that an optimizer needs, as its `prepare` gets it."""

    policy: ToyPolicy
    batch: Batch


def case(optimizer: Optimizer, groups: Sequence[Group], *, drift: float = 0.2) -> Case:
    """Groups, filled by a policy that has moved from its reference, and that then moves again: no ratio is 1.

    With `drift=0`, policy, old policy and reference are one: the state before the first update.
    """
    policy = toy_policy(drift=drift, roles=columns.roles(optimizer.needs) | set(specs_of(optimizer)))
    batch = fill(collate(groups, source_weights=TOY_WEIGHTS), policy, optimizer.needs)
    policy.drift(drift, seed=2)
    return Case(policy, only(batch, optimizer.needs))


def ragged(optimizer: Optimizer, given: Given, attempt: Attempt) -> Iterator[tuple[Case, Batch]]:
    """Random ragged groups, without and with a dense reward, and what `prepare` makes of them."""
    for dense in (False, True):
        made = case(optimizer, toy_groups(int(dense), columns=given.columns, dense=dense))
        yield made, prepare(attempt, optimizer, made.batch)


def columns_of(batch: Batch) -> dict[str, Tensor]:
    """Every column by name, but the number by which a row is known again, which says nothing."""
    return {name: column for name, column in batch.columns().items() if name != "row"}


def padded(batch: Batch, extra: int) -> Batch:
    """With more padding on the right."""
    return batch.with_columns({n: pad(c, (0, extra)) if c.ndim == 2 else c for n, c in columns_of(batch).items()})


@dataclass(frozen=True)
class Objective:
    """Σ weights·terms / N, its gradient over all weights of the policy, and Σ|weights·terms| / N, its size."""

    loss: Tensor
    gradient: Tensor
    size: float


def agree(attempt: Attempt, expected: Objective, found: Objective) -> None:
    """The same loss and the same gradient."""
    attempt.same("loss", expected.loss, found.loss, expected.size)
    attempt.same("gradient", expected.gradient, found.gradient, 1e-3 * expected.size)


def couples(optimizer: Optimizer) -> str:
    """What the loss may not be split through."""
    return traits_of(optimizer).couples


def answer(optimizer: Optimizer, policy: ToyPolicy, batch: Batch) -> Forward:
    """What the optimizer may see of the policy."""
    return policy.forward(batch, columns.trained(optimizer.needs))


def objective(
    attempt: Attempt, optimizer: Optimizer, policy: ToyPolicy, pieces: Iterable[Batch], n: int, *, trimmed: bool = True
) -> Objective:
    """The objective over these pieces of a minibatch of n rows, added up as the runner does it."""
    weights = list(policy.weights.values())
    for tensor in weights:
        tensor.grad = None
    total, size = torch.zeros(()), 0.0
    for piece in pieces:
        micro = trim(piece) if trimmed else piece
        terms = loss(attempt, optimizer, micro, answer(optimizer, policy, micro))
        with attempt.runs("the reduction Σ weights·terms / N"):
            part = fn.weigh(terms.loss, micro.weights, micro.mask) / n
        if part.requires_grad:
            torch.autograd.backward(part)
        total = total + part.detach()
        size += float(fn.weigh(terms.loss.detach().abs(), micro.weights.abs(), micro.mask)) / n
    found = [torch.zeros_like(t) if t.grad is None else t.grad for t in weights]
    return Objective(total, torch.cat([gradient.flatten() for gradient in found]), size)


def leaves(out: Forward) -> Forward:
    """The same answers, cut off from the policy and waiting for a gradient."""
    return Forward.of({n: column.detach().clone().requires_grad_(True) for n, column in out.columns().items()})


REPORTED = ("kl", "kl/token", "kl/k3", "entropy", "reward/std", "length", "finished", "loss", "grad_norm")
"""What every report of a step has, beside the number of completions and their mean reward."""


def reports(terms: Terms) -> list[StepReport]:
    """Steps as a run might report them, the method's own metrics among their figures: all small, and ever larger."""
    names = (*REPORTED, *terms.metrics)
    whole = {"completions": 8.0, "reward/mean": 1.0}
    return [StepReport(1, 10, dict.fromkeys(names, level) | whole) for level in (1e-4, 0.01, 0.3, 1.0, 5.0)]


def pull(attempt: Attempt, optimizer: Optimizer, batch: Batch, out: Forward) -> dict[str, Tensor]:
    """The gradient of the objective in each of the policy's answers, from `leaves`."""
    answers = out.columns()
    terms = loss(attempt, optimizer, batch, out)
    cost = fn.weigh(terms.loss, batch.weights, batch.mask) / max(len(batch), 1)
    if not cost.requires_grad:
        return {name: torch.zeros_like(column) for name, column in answers.items()}
    found = torch.autograd.grad(cost, list(answers.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(answers, found, strict=True))
