"""Every setting does something: one that changes nothing is a term that was lost."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from alignzoo.interfaces import HasNext, Optimizer
from alignzoo.roles import moves, specs_of
from alignzoo.testing.laws import Attempt, ConformanceError, Given
from alignzoo.testing.measure import Case, answer, case, leaves, loss, prepare, pull, reports
from alignzoo.testing.world import toy_groups
from alignzoo.types import Group

RUNNERS = ("epochs",)
"""Fields that the runner reads."""


def settings(optimizer: Optimizer, given: Given) -> None:
    """Each number, switch and choice changes the weights, the loss, its gradient or the successor, in some company."""
    if not dataclasses.is_dataclass(optimizer):
        return
    cause = "a term of the loss that was left out, or weights that prepare() computes and then does not set"
    changes = {f.name: list(_other_values(optimizer, f)) for f in dataclasses.fields(optimizer) if f.init}
    tried = _Tried(optimizer, [toy_groups(seed, columns=given.columns, dense=bool(seed)) for seed in (0, 1)])
    for name, values in changes.items():
        attempt = Attempt(13, f"{type(optimizer).__name__}.{name}, in all others' company", cause)
        if name in RUNNERS or not values:
            continue
        company = [{}, *({other: value} for other, some in changes.items() if other != name for value in some)]
        for value in values:
            tried.effect(attempt, {name: value})
        now, choices = getattr(optimizer, name), [[each] for each in values] if isinstance(values[0], str) else [values]
        for some in choices:  # every choice is something else than the one that is set; of numbers, one value is enough
            if not any(tried.differ(attempt, {**around}, {**around, name: v}) for around in company for v in some):
                attempt.fail(f"some effect of {name}", f"none between {now!r} and {', '.join(map(repr, some))}")


@dataclasses.dataclass(frozen=True)
class _Tried:
    """What an optimizer does with its settings changed, each change tried once."""

    optimizer: Any
    batches: Sequence[Sequence[Group]]
    found: dict[tuple[tuple[str, Any], ...], list[Tensor] | None] = dataclasses.field(default_factory=dict)
    cases: dict[object, list[Case]] = dataclasses.field(default_factory=dict)

    def effect(self, attempt: Attempt, changes: Mapping[str, Any]) -> list[Tensor] | None:
        """Everything by which these changes can show; None where the optimizer refuses to take them."""
        key = tuple(sorted(changes.items()))
        if key not in self.found:
            try:
                part = dataclasses.replace(self.optimizer, **changes)
                self.found[key] = [each for made in self.case(part) for each in _effects(attempt, part, made)]
            except (ValueError, TypeError):
                self.found[key] = None
        return self.found[key]

    def case(self, part: Any) -> list[Case]:
        """What a part with these settings is given: settings that ask for the same columns are given the same."""
        asks = part.needs, frozenset(specs_of(part))
        if asks not in self.cases:
            self.cases[asks] = [case(part, groups) for groups in self.batches]
        return self.cases[asks]

    def differ(self, attempt: Attempt, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two settings of an optimizer do different things; those that it refuses to take do not count."""
        try:
            first, second = (self.effect(attempt, changes) for changes in (one, other))
        except ConformanceError:
            return False  # settings that do not go together
        if first is None or second is None:
            return False
        return len(first) != len(second) or not all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True)
        )


def _effects(attempt: Attempt, optimizer: Any, made: Case) -> Iterator[Tensor]:
    """Everything by which an optimizer can show a setting."""
    prepared = prepare(attempt, optimizer, made.batch)
    out = answer(optimizer, made.policy, prepared)
    terms = loss(attempt, optimizer, prepared, out)
    yield from (prepared.weights, terms.loss.detach())
    yield from pull(attempt, optimizer, prepared, leaves(out)).values()
    moved = moves(optimizer, 100)
    yield torch.tensor([[each.get(role, 0.0) for each in moved] for role in sorted({r for m in moved for r in m})])
    names = [f.name for f in dataclasses.fields(optimizer)]
    for report in reports(terms) if isinstance(optimizer, HasNext) else ():
        successor = optimizer.next(report)
        # The setting itself stays in the successor: only what it does to the others is an effect.
        changed = [getattr(successor, n) for n in names if getattr(successor, n) != getattr(optimizer, n)]
        yield torch.tensor([float(value) for value in changed if isinstance(value, int | float)])


def _other_values(optimizer: Any, field: dataclasses.Field[Any]) -> Iterator[Any]:
    """Other values that a field may take; none for texts and objects, whose meaning nobody knows."""
    hint = typing.get_type_hints(type(optimizer), include_extras=True).get(field.name)
    bounds = getattr(hint, "__metadata__", ())
    yield from (other for other in _tried(getattr(optimizer, field.name), hint) if _within(other, bounds))


def _within(value: Any, bounds: Sequence[Any]) -> bool:
    """Whether a value is in the range that its field is annotated with, which a recipe is held to."""
    low, above = (max((getattr(each, name, -inf) for each in bounds), default=-inf) for name in ("ge", "gt"))
    high, below = (min((getattr(each, name, inf) for each in bounds), default=inf) for name in ("le", "lt"))
    return bool(low <= value <= high and above < value < below) if isinstance(value, int | float) else True


def _tried(value: Any, hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Literal:
        yield from (choice for choice in get_args(hint) if choice != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, 2 * value + 3)
    elif isinstance(value, float):
        yield from (value / 2 or 0.3, value / 8 or 1e-3, 1.5 * value + 0.1)
