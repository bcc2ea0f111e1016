"""What the checks share: the error, an optimizer's case, and its objective as the runner adds it up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.functional import pad

from alignzoo import functional as fn
from alignzoo.collate import collate, fill, only, trim
from alignzoo.interfaces import Optimizer
from alignzoo.testing.world import ToyPolicy, toy_policy
from alignzoo.types import Batch, Forward, Group, Terms

LAWS = {
    1: "loss and gradient do not depend on micro-batches, padding, group order or the number of processes",
    2: "nothing under the mask is read, nor any column that is not in `needs`",
    3: "prepare and loss mutate nothing and repeat exactly",
    4: "hard inputs give an empty batch or a finite loss, never NaN",
    5: "before the first update ratios are exactly 1 and the KL to the reference is 0",
    6: "the gradient prefers the better completion, and no advantage means no policy gradient",
    8: "an algorithm's metrics are its own: finite, per row or per token, under names that the runner does not use",
}
"""Those of the project's laws that an optimizer alone can break."""

ANSWERS = frozenset({"logprobs", "entropy", "values", "scores"})
FILLED = ("old_logprobs", "ref_logprobs", "old_values")


class ConformanceError(AssertionError):
    """An optimizer breaks one of the laws."""

    def __init__(self, law: int, given: str, expected: str, found: str, cause: str) -> None:
        super().__init__(
            f"law {law} is broken: {LAWS[law]}\n  input:       {given}\n  expected:    {expected}\n"
            f"  found:       {found}\n  usual cause: {cause}"
        )
        self.law = law


@dataclass(frozen=True)
class Attempt:
    """A check in progress: which law it holds, on which input, and why optimizers usually fail it."""

    law: int
    given: str
    cause: str

    def fail(self, expected: str, found: str) -> NoReturn:
        raise ConformanceError(self.law, self.given, expected, found, self.cause)

    def require(self, holds: bool, expected: str, found: str) -> None:
        if not holds:
            self.fail(expected, found)

    @contextmanager
    def runs(self, what: str) -> Iterator[None]:
        """Turn an exception inside into a broken law."""
        try:
            yield
        except ConformanceError:
            raise
        except Exception as error:
            raise ConformanceError(
                self.law, self.given, f"{what} runs", f"{type(error).__name__}: {error}", self.cause
            ) from error

    def prepare(self, optimizer: Optimizer, batch: Batch) -> Batch:
        """What `prepare` makes of the batch."""
        with self.runs("prepare"):
            return optimizer.prepare(batch)

    def loss(self, optimizer: Optimizer, batch: Batch, out: Forward) -> Terms:
        """What `loss` answers."""
        with self.runs("loss"):
            return optimizer.loss(batch, out)

    def same(self, what: str, expected: Tensor, found: Tensor, size: float = 1e-3) -> None:
        """Equal up to the rounding, in float32, of numbers as large as `size` or `expected`."""
        if expected.shape != found.shape:
            self.fail(f"{what} of shape {tuple(expected.shape)}", f"shape {tuple(found.shape)}")
        away = float((expected - found).abs().max()) if expected.numel() else 0.0
        if not away <= 1e-5 * max([size, *expected.abs().flatten().tolist()]):
            self.fail(f"the same {what} ({summary(expected)})", f"{summary(found)}, which is {away:.3g} away")

    def unchanged(self, what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
        """Every column equal to the bit; `what` says of a column's name in {} what it is."""
        for name, column in expected.items():
            if name not in found or column.shape != found[name].shape or not torch.equal(column, found[name]):
                now = summary(found[name]) if name in found else "nothing"
                self.fail(f"{what.format(name)} to be as before ({summary(column)})", now)

    def agree(self, expected: Objective, found: Objective) -> None:
        """The same loss and the same gradient."""
        self.same("loss", expected.loss, found.loss, expected.size)
        self.same("gradient", expected.gradient, found.gradient, 1e-3 * expected.size)

    def finite(self, what: str, values: Tensor) -> None:
        self.require(bool(torch.isfinite(values).all()), f"a finite {what}", summary(values))


def summary(values: Tensor) -> str:
    """A tensor in a few words."""
    values = values.detach()
    if values.numel() <= 4:
        return str(values.tolist())
    bad = int((~torch.isfinite(values.double())).sum())
    return f"{tuple(values.shape)} of norm {float(values.double().norm()):.6g}" + (f", {bad} not finite" if bad else "")


@dataclass(frozen=True)
class Case:
    """A policy and a batch with the columns that an optimizer needs, as its `prepare` gets it."""

    policy: ToyPolicy
    batch: Batch


def case(optimizer: Optimizer, groups: Sequence[Group], *, drift: float = 0.2) -> Case:
    """Groups, filled by a policy that has moved from its reference, and that then moves again: no ratio is 1.

    With `drift=0`, policy, old policy and reference are one: the state before the first update.
    """
    policy = toy_policy(drift=drift)
    batch = fill(collate(groups), policy, optimizer.needs)
    policy.drift(drift, seed=2)
    return Case(policy, only(batch, optimizer.needs))


def columns_of(batch: Batch) -> dict[str, Tensor]:
    """Every tensor of a batch by name; those of `extra` and `parts` with a dot."""
    found = {f.name: getattr(batch, f.name) for f in fields(batch)}
    flat = {name: column for name, column in found.items() if isinstance(column, Tensor)}
    return flat | {f"{name}.{key}": c for name in ("parts", "extra") for key, c in found[name].items()}


def with_columns(batch: Batch, columns: dict[str, Tensor]) -> Batch:
    """The inverse of `columns_of`."""
    changes: dict[str, Any] = {name: column for name, column in columns.items() if "." not in name}
    for name in ("parts", "extra"):
        inside = {key.removeprefix(f"{name}."): c for key, c in columns.items() if key.startswith(f"{name}.")}
        changes[name] = inside
    return replace(batch, **changes)


def padded(batch: Batch, extra: int) -> Batch:
    """With more padding on the right."""
    return with_columns(batch, {n: pad(c, (0, extra)) if c.ndim == 2 else c for n, c in columns_of(batch).items()})


@dataclass(frozen=True)
class Objective:
    """Σ weights·terms / N, its gradient over all weights of the policy, and Σ|weights·terms| / N, its size."""

    loss: Tensor
    gradient: Tensor
    size: float


def couples(optimizer: Optimizer) -> str:
    """What the loss may not be split through."""
    return str(getattr(optimizer, "couples", "group"))


def answer(optimizer: Optimizer, policy: ToyPolicy, batch: Batch) -> Forward:
    """What the optimizer may see of the policy."""
    return policy.forward(batch, frozenset(optimizer.needs & ANSWERS))


def objective(
    attempt: Attempt, optimizer: Optimizer, policy: ToyPolicy, pieces: Iterable[Batch], n: int, *, trimmed: bool = True
) -> Objective:
    """The objective over these pieces of a minibatch of n rows, added up as the runner does it."""
    weights = list(policy.weights.values())
    for tensor in weights:
        tensor.grad = None
    loss, size = torch.zeros(()), 0.0
    for piece in pieces:
        micro = trim(piece) if trimmed else piece
        terms = attempt.loss(optimizer, micro, answer(optimizer, policy, micro))
        with attempt.runs("the reduction Σ weights·terms / N"):
            part = fn.weigh(terms.loss, micro.weights, micro.mask) / n
        if part.requires_grad:
            torch.autograd.backward(part)
        loss = loss + part.detach()
        size += float(fn.weigh(terms.loss.detach().abs(), micro.weights.abs(), micro.mask)) / n
    found = [torch.zeros_like(t) if t.grad is None else t.grad for t in weights]
    return Objective(loss, torch.cat([gradient.flatten() for gradient in found]), size)


def answers_of(out: Forward) -> dict[str, Tensor]:
    """The policy's answers by name."""
    return {name: column for name in sorted(ANSWERS) if isinstance(column := getattr(out, name), Tensor)}


def leaves(out: Forward) -> Forward:
    """The same answers, cut off from the policy and waiting for a gradient."""
    return Forward(**{n: column.detach().clone().requires_grad_(True) for n, column in answers_of(out).items()})


def pull(attempt: Attempt, optimizer: Optimizer, batch: Batch, out: Forward) -> dict[str, Tensor]:
    """The gradient of the objective in each of the policy's answers, from `leaves`."""
    answers = answers_of(out)
    terms = attempt.loss(optimizer, batch, out)
    loss = fn.weigh(terms.loss, batch.weights, batch.mask) / max(len(batch), 1)
    if not loss.requires_grad:
        return {name: torch.zeros_like(column) for name, column in answers.items()}
    found = torch.autograd.grad(loss, list(answers.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(answers, found, strict=True))
