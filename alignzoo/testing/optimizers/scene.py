"""Small scenes away from the start: columns alone, without a policy, and how hard an optimizer pulls at each answer."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo import functional as fn
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, ConformanceError, Given
from alignzoo.testing.measure import loss, prepare
from alignzoo.testing.world import TOY_WEIGHTS, column_values
from alignzoo.traits import traits_of
from alignzoo.types import Batch, Forward, Terms

Level: TypeAlias = Tensor | float
"""A column of a scene: one number for all, one per row (N,), or one per row and token (N, T)."""

LEVELS = {"logprobs": -1.0, "entropy": 1.0, "values": 0.0, "cost_values": 0.0, "scores": 0.0}
"""What an answer is where a scene does not say; others are 0.5."""


def learnt(names: Collection[str]) -> str:
    """The one of these answers that says how good an optimizer finds a completion; empty where there is none."""
    return next((name for name in ("logprobs", "scores", "token_scores") if name in names), "")


@dataclass(frozen=True)
class Scene(Batch):
    """A batch whose groups are accompanied, when an optimizer gets them, by rows that stand for roles."""

    roles: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Columns of `extra` by name, and the values of which each group gets a row more."""


def scene(
    lengths: Sequence[int], group: Sequence[int], rewards: Sequence[float], given: Given, *, prompt: int = 1
) -> Scene:
    """Completions of these lengths after a prompt of `prompt` tokens, no two rows alike."""
    whole = prompt + torch.tensor(lengths)
    position = torch.arange(int(whole.max()))
    attend = position < whole[:, None]
    rows, values = torch.arange(len(lengths)), column_values(given.columns)
    return Scene(
        tokens=torch.where(attend, 2 + position + 100 * rows[:, None], 0),
        attend=attend,
        mask=attend & (position >= prompt),
        group=torch.tensor(group),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        weights=torch.ones(len(lengths)),
        extra={name: torch.full((len(lengths),), some[0] if some else 0.5) for name, some in values.items()},
        roles={name: some[1:] for name, some in values.items() if len(some) > 1},
    )


def accompanied(batch: Batch) -> tuple[Batch, Tensor]:
    """The batch with a row more at each group's end for each role, and of each row the one that it is like: a role's
    has the reward of the group's mean, tokens of its own, and otherwise what the group's last row has."""
    roles = batch.roles if isinstance(batch, Scene) else {}
    groups = batch.group.tolist()
    ends = [row for row in range(len(batch)) if row + 1 == len(batch) or groups[row + 1] != groups[row]]
    more = sum(map(len, roles.values()))
    if not more:
        return batch, torch.arange(len(batch))
    like = [copy for row in range(len(batch)) for copy in [row] * (1 + more * (row in ends))]
    origin = torch.tensor(like)
    new = torch.tensor([place > 0 and like[place - 1] == row for place, row in enumerate(like)])
    wide = batch.select(origin)
    rewards = torch.where(new, fn.group_mean(batch.rewards, batch.group)[origin], wide.rewards)
    shift = 1000 * (torch.arange(len(like)) * new)[:, None]
    extra = dict(wide.extra)
    at = 0
    for name, values in roles.items():
        for value in values:
            at += 1
            extra[name] = torch.where(_place_in(new) == at, value, extra[name])
    tokens = torch.where(wide.attend, wide.tokens + shift, 0)
    return dataclasses.replace(wide, tokens=tokens, rewards=rewards, extra=extra), origin


def _place_in(new: Tensor) -> Tensor:
    """The place of each row of a role in its group, from 1 on; 0 for the others."""
    count, found = 0, []
    for each in new.tolist():
        count = count + 1 if each else 0
        found.append(count)
    return torch.tensor(found)


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
    if isinstance(batch, Scene) and batch.roles:
        return _among_roles(attempt, optimizer, batch, values, afterwards or {})
    if not batch.sources:
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


def _among_roles(
    attempt: Attempt, optimizer: Optimizer, batch: Scene, values: Mapping[str, Level], afterwards: Mapping[str, Level]
) -> Pull | None:
    """As `pull_of`, with rows that stand for roles in each group; what is found is told of the scene's own rows."""
    wide, origin = accompanied(batch)
    own = torch.tensor([row == 0 or origin[row] != origin[row - 1] for row in range(len(origin))])

    def spread(levels: Mapping[str, Level]) -> dict[str, Level]:
        return {name: torch.as_tensor(v)[origin] if torch.as_tensor(v).ndim else v for name, v in levels.items()}

    plain = dataclasses.replace(wide, roles={})  # type: ignore[call-arg]
    found = pull_of(attempt, optimizer, plain, spread(values), afterwards=spread(afterwards))
    if found is None:
        return None
    kept = own[found.origin]
    at = torch.cumsum(own, 0) - 1
    terms = Terms(found.terms.loss[kept], {name: each[kept] for name, each in found.terms.metrics.items()})
    on = {name: column[own] for name, column in found.on.items()}
    return Pull(found.prepared.select(kept), at[found.origin[kept]], terms, on)


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


def rewarded(attempt: Attempt, variant: Variant, batch: Batch, values: Mapping[str, Level]) -> Pull | None:
    """The pulls in a scene, of an optimizer to which rewards say anything; None for others, as in distillation."""
    if not runs(variant, attempt, batch):
        return None
    found = pull_of(variant.of(attempt), variant.part, batch, values)
    other = pull_of(variant.of(attempt), variant.part, dataclasses.replace(batch, rewards=-batch.rewards), values)
    read = learnt(variant.part.needs)
    if found is None or read not in found.on or (other is not None and torch.equal(found.on[read], other.on[read])):
        return None
    return found


def compares(optimizer: Optimizer, given: Given) -> bool:
    """Whether it compares a prompt's completions: its trait says so, or it drops an answer that stands alone."""
    if traits_of(optimizer).completions > 1:
        return True
    attempt = Attempt(13, "prompts with one answer each, then one with two", "")
    alone, both = (scene([2, 2], groups, [1.0, 0.0], given) for groups in ([0, 1], [0, 0]))
    return pull_of(attempt, optimizer, alone) is None and pull_of(attempt, optimizer, both) is not None
