"""Beside a reference implementation: the same log-probabilities through its code and ours, value and gradient."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo import functional as fn
from alignzoo.errors import PluginError
from alignzoo.interfaces import Optimizer
from alignzoo.testing.world import toy_batch
from alignzoo.traits import traits_of
from alignzoo.twins import Twin
from alignzoo.types import Batch, Forward

TOLERANCE = 2e-5
"""How far value and gradient may be from the twin's, relative to their size: both compute in float32."""
SHAPES = {
    "pairs": ([4, 2, 3, 5, 6, 1, 2, 2, 1, 7], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [1.0, 0.0] * 5),
    "pairs alike": ([3, 2, 3, 5, 3, 1, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3], [1.0, 0.0] * 4),
    "groups": ([3, 1, 5, 4, 2, 6], [0, 0, 0, 1, 1, 1], [1.0, 0.0, 0.3, 0.0, 2.0, 0.5]),
    "groups alike": ([3, 1, 5, 4, 3, 6], [0, 0, 0, 1, 1, 1], [1.0, 0.0, 0.3, 0.0, 2.0, 0.5]),
    "labels": ([3, 1, 5, 4, 2, 6, 2, 3], list(range(8)), [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
}
"""Lengths, groups and rewards of what a twin is compared on. Of the labelled rows the last three are other prompts'."""
DECIDES = ("prepare", "loss", "cost", "rewards", "surrogate", "credit", "weigh", "penalty", "leads", "needs")
"""Methods by which a subclass is another algorithm than its parent, whose twin is not its own."""


@dataclass(frozen=True)
class Compared:
    """A loss beside its twin's, on one batch."""

    twin: Twin
    version: str
    ours: float
    theirs: float
    gradient: float
    """The largest difference of the gradients in the log-probabilities, relative to the largest entry."""

    @property
    def equal(self) -> bool:
        size = max(abs(self.theirs), 1e-2)
        return abs(self.ours - self.theirs) <= TOLERANCE * size and self.gradient <= TOLERANCE


def twin_of(optimizer: Any) -> Twin | None:
    """The twin that an optimizer, or the one whose setting it is, names; None where there is none."""
    for cls in type(optimizer).__mro__:
        if "oracle" in vars(cls):
            found: Twin | None = optimizer.oracle()
            return found
        if any(name in vars(cls) for name in DECIDES):
            return None
    return None


def compare(optimizer: Optimizer, name: str) -> list[Compared]:
    """The loss and its gradient beside the twin's, on log-probabilities near the old ones and far from them.

    Raises PluginError where the optimizer names no twin, or its package is not installed.
    """
    twin = twin_of(optimizer)
    if twin is None:
        raise PluginError(
            f"{name} names no twin with these settings: a method `oracle(self) -> alignzoo.twins.Twin` would say which "
            "reference implementation computes the same loss"
        )
    if importlib.util.find_spec(twin.package) is None:
        raise PluginError(
            f"the twin of {name} is in the package {twin.package!r}, which is not installed: pip install {twin.package}"
        )
    return [_beside(optimizer, twin, spread) for spread in (0.1, 0.4, 1.0)]


def _beside(optimizer: Optimizer, twin: Twin, spread: float) -> Compared:
    batch, logprobs, answers = _rows(optimizer, twin, spread)
    prepared = optimizer.prepare(batch)
    leaf = logprobs[prepared.row].clone().requires_grad_(True)
    said = {name: column[prepared.row] for name, column in answers.items()}
    terms = optimizer.loss(prepared, Forward.of({"logprobs": leaf, **said}))
    ours = fn.weigh(terms.loss, prepared.weights, prepared.mask) / len(prepared)
    mine = torch.autograd.grad(ours, leaf)[0]
    module, _, function = twin.loss.partition(":")
    compute = getattr(importlib.import_module(module), function)
    other = logprobs[prepared.row].clone().requires_grad_(True)
    theirs = compute(prepared, other, **{**twin.settings, **said})
    gradient = torch.autograd.grad(theirs, other)[0]
    away = float((mine - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12))
    version = importlib.metadata.version(twin.package)
    return Compared(twin, version, float(ours.detach()), float(theirs.detach()), away)


def _rows(optimizer: Optimizer, twin: Twin, spread: float) -> tuple[Batch, Tensor, dict[str, Tensor]]:
    """A batch with the columns that the optimizer needs, the policy's log-probabilities, and its other answers."""
    lengths, group, rewards = SHAPES[f"{twin.rows} alike" if twin.alike else twin.rows]
    batch = toy_batch(lengths, group=group, rewards=rewards)
    rng = torch.Generator().manual_seed(3)
    base = -0.2 - 2 * torch.rand(batch.mask.shape, generator=rng)

    def moved(column: str) -> Tensor:
        level = base + spread * torch.randn(batch.mask.shape, generator=rng)
        level = torch.rand(batch.mask.shape, generator=rng) if column.endswith("entropy") else level.clamp(max=-1e-3)
        return torch.where(batch.mask, level, 0.0)

    batch = batch.answered({name: moved(name) for name in sorted(columns.filled(optimizer.needs))})
    if twin.rows == "labels":  # the last three rows have the role of which the optimizer has a column
        roles = traits_of(optimizer).columns.items()
        batch = replace(batch, extra={n: torch.tensor([v[0]] * 5 + [v[-1]] * 3) for n, v in roles})
    others = sorted(columns.trained(optimizer.needs) - {"logprobs"})
    answers = {name: 0.01 + torch.rand(batch.mask.shape, generator=rng) for name in others}
    said = moved("logprobs")
    if twin.rows == "labels" and batch.ref_logprobs is not None:  # a role's rows are above the reference: a KL above 0
        said[5:] = torch.where(batch.mask, batch.ref_logprobs + 0.1, 0.0)[5:]
    return batch, said, answers
