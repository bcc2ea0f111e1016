"""Small scenes away from the start: columns alone, without a policy, and how hard an optimizer pulls at each answer."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo import functional as fn
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, ConformanceError, Given
from alignzoo.testing.measure import loss, prepare
from alignzoo.testing.world import TOY_WEIGHTS
from alignzoo.types import Batch, Forward, Terms

Level: TypeAlias = Tensor | float
"""A column of a scene: one number for all, one per row (N,), or one per row and token (N, T)."""

LEVELS = {"logprobs": -1.0, "entropy": 1.0, "values": 0.0, "scores": 0.0}
"""What an answer is where a scene does not say; others are 0.5."""


def scene(
    lengths: Sequence[int], group: Sequence[int], rewards: Sequence[float], given: Given, *, prompt: int = 1
) -> Batch:
    """Completions of these lengths after a prompt of `prompt` tokens, no two rows alike."""
    whole = prompt + torch.tensor(lengths)
    position = torch.arange(int(whole.max()))
    attend = position < whole[:, None]
    rows = torch.arange(len(lengths))
    return Batch(
        tokens=torch.where(attend, 2 + position + 100 * rows[:, None], 0),
        attend=attend,
        mask=attend & (position >= prompt),
        group=torch.tensor(group),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        weights=torch.ones(len(lengths)),
        extra={name: torch.full((len(lengths),), 0.5) for name in given.columns},
    )


def laid(batch: Batch, name: str, value: Level) -> Tensor:
    """A column of the batch's shape, 0 where the mask is False."""
    level = torch.as_tensor(value, dtype=torch.float32)
    if name != "returns" and columns.column(name).answer.per == "row":
        return level.expand(len(batch)).clone()
    level = level if level.ndim == 2 else level.expand(len(batch))[:, None]
    return level * batch.mask


def answers(names: frozenset[str], batch: Batch, values: Mapping[str, Level]) -> dict[str, Tensor]:
    """These columns as `values` has them, or at their usual level."""
    return {n: laid(batch, n, values.get(n, LEVELS.get(columns.column(n).answer.name, 0.5))) for n in sorted(names)}


@dataclass(frozen=True)
class Pull:
    """What an optimizer does with a scene."""

    prepared: Batch
    origin: Tensor
    """Which row of the scene each prepared row was."""
    terms: Terms
    on: Mapping[str, Tensor]
    """The negative gradient of Σ weights·terms / N in each answer, laid on the scene's rows: above 0, it is raised."""

    def rows(self, name: str = "logprobs") -> Tensor:
        """The pull on each row of the scene, summed over its tokens, (N,)."""
        pull = self.on[name]
        return pull if pull.ndim == 1 else pull.sum(1)


def pull_of(
    attempt: Attempt,
    optimizer: Optimizer,
    batch: Batch,
    values: Mapping[str, Level] | None = None,
    *,
    afterwards: Mapping[str, Level] | None = None,
) -> Pull | None:
    """How an optimizer pulls at the answers of a scene; None where `prepare` leaves no row.

    `values` are columns by name, those of other roles and those of the policy. `afterwards` are columns of other roles
    (and `returns`) that are put into the prepared batch: `loss` reads them, `prepare` does not.
    """
    values = values or {}
    first, second = TOY_WEIGHTS
    alone = {first: batch.rewards / TOY_WEIGHTS[first], second: torch.zeros_like(batch.rewards)}
    batch = dataclasses.replace(batch, sources=alone, source_weights=TOY_WEIGHTS)
    prepared = prepare(attempt, optimizer, batch.answered(answers(columns.filled(optimizer.needs), batch, values)))
    if not len(prepared):
        return None
    origin = rows_of(attempt, batch, prepared)
    late = {name: value for name, value in (afterwards or {}).items() if name in optimizer.needs | {"returns"}}
    if prepared.returns is None:
        late.pop("returns", None)
    prepared = prepared.answered({name: laid(batch, name, value)[origin] for name, value in late.items()})
    said = answers(columns.trained(optimizer.needs), batch, values)
    leaves = {name: column[origin].clone().requires_grad_(True) for name, column in said.items()}
    terms = loss(attempt, optimizer, prepared, Forward.of(leaves))
    cost = fn.weigh(terms.loss, prepared.weights, prepared.mask) / len(prepared)
    found: tuple[Tensor, ...] = tuple(torch.zeros_like(leaf) for leaf in leaves.values())
    if cost.requires_grad:
        found = torch.autograd.grad(cost, list(leaves.values()), allow_unused=True, materialize_grads=True)
    on = {n: torch.zeros_like(said[n]).index_add(0, origin, -g) for n, g in zip(leaves, found, strict=True)}
    return Pull(prepared, origin, terms, on)


def rows_of(attempt: Attempt, batch: Batch, prepared: Batch) -> Tensor:
    """Which row of `batch` each prepared row was."""
    index = {tuple(tokens): row for row, tokens in enumerate(batch.tokens.tolist())}
    with attempt.runs("finding the prepared rows' tokens in the batch that prepare() was given"):
        return torch.tensor([index[tuple(tokens)] for tokens in prepared.tokens.tolist()], dtype=torch.long)


def noise(batch: Batch, size: float, seed: int) -> Tensor:
    """A random number for each token, (N, T)."""
    return size * torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(seed))


# --- settings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """An optimizer with one setting changed, or none."""

    part: Any
    what: str
    """The change in words; empty for the optimizer as it was given."""
    choice: bool = False
    """The change is another of several named choices, which may be another algorithm."""

    def of(self, attempt: Attempt) -> Attempt:
        """The attempt, its input with the setting's name."""
        return dataclasses.replace(attempt, given=f"{attempt.given}; {self.what}") if self.what else attempt


def variants(optimizer: Optimizer) -> list[Variant]:
    """The optimizer as it is, and with each switch turned, each other choice, each weight of 0 set to 0.1.

    What is behind a switch is held to the laws as well as what is not. A change that the optimizer refuses is left out.
    """
    return [Variant(optimizer, ""), *_changed(optimizer, zeroed=False)]


def without_weights(optimizer: Optimizer) -> list[Variant]:
    """As `variants`, and with each number that may be 0 set to 0: so `needs` can become less, too."""
    return [Variant(optimizer, ""), *_changed(optimizer, zeroed=True)]


def _changed(optimizer: Any, *, zeroed: bool) -> Iterator[Variant]:
    hints = typing.get_type_hints(type(optimizer), include_extras=True)
    for field in dataclasses.fields(optimizer):
        value, hint = getattr(optimizer, field.name), hints.get(field.name)
        others: list[Any] = []
        if get_origin(hint) is Literal:
            others = [choice for choice in get_args(hint) if choice != value]
        elif isinstance(value, bool):
            others = [not value]
        elif isinstance(value, float):
            others = [0.1] if value == 0 else [0.0] if zeroed and _may_be_zero(hint) else []
        for other in others if field.init else ():
            try:
                part = dataclasses.replace(optimizer, **{field.name: other})
                needs = part.needs
            except (ValueError, TypeError):
                continue  # this optimizer does not take it
            if zeroed and needs == optimizer.needs:
                continue
            yield Variant(part, f"{field.name} = {other!r}", get_origin(hint) is Literal)


def _may_be_zero(hint: Any) -> bool:
    """Whether the range that a field is annotated with has 0 in it."""
    for bound in getattr(hint, "__metadata__", ()):
        low, above = getattr(bound, "ge", None), getattr(bound, "gt", None)
        if (low is not None and low > 0) or (above is not None and above >= 0):
            return False
    return True


def runs(variant: Variant, attempt: Attempt, batch: Batch) -> bool:
    """Whether a variant works at all: two settings may not go together, which is no law's affair."""
    if not variant.what:
        return True
    try:
        pull_of(attempt, variant.part, batch)
    except ConformanceError:
        return False
    return True
