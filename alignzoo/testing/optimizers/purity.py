"""What an optimizer reads, and what it leaves as it was."""

from __future__ import annotations

import pickle
from dataclasses import replace

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo.interfaces import HasNext, Optimizer
from alignzoo.roles import following, specs_of
from alignzoo.testing.laws import Attempt, Given, summary
from alignzoo.testing.measure import (
    answer,
    case,
    columns_of,
    leaves,
    loss,
    prepare,
    pull,
    ragged,
    reports,
)
from alignzoo.testing.optimizers.scene import without_weights
from alignzoo.testing.optimizers.surroundings import as_before, globals_of, randomness
from alignzoo.testing.world import toy_groups
from alignzoo.traits import prepare_reads, traits_of
from alignzoo.types import Batch, Forward


def pure(optimizer: Optimizer, given: Given) -> None:
    """`prepare`, `loss` and `next` mutate nothing, and repeat to the bit without touching global randomness."""
    cause = (
        "an operation in place (x += ..., x.clamp_()), a counter outside of the fields, or randomness without a seed"
    )
    attempt = Attempt(3, "ragged groups", cause)
    for dense in (False, True):
        made = case(optimizer, toy_groups(int(dense), columns=given.columns, dense=dense))
        known, drawn = pickle.dumps(optimizer), randomness()
        before = _copies(made.batch)
        prepared = prepare(attempt, optimizer, made.batch)
        attempt.unchanged("the batch's {} after prepare", before, columns_of(made.batch))
        made_of_it = _copies(prepared)
        again = prepare(attempt, optimizer, made.batch)
        attempt.unchanged("prepare's {} at the second call", made_of_it, columns_of(again))

        out = Forward.of({n: c.detach() for n, c in answer(optimizer, made.policy, prepared).columns().items()})
        answered = {name: column.clone() for name, column in out.columns().items()}
        first = loss(attempt, optimizer, prepared, out).loss.clone()
        around = globals_of(optimizer)  # after the first calls, which may have filled a cache
        attempt.unchanged("the prepared batch's {} after loss", made_of_it, columns_of(prepared))
        attempt.unchanged("the policy's {} after loss", answered, out.columns())
        second = loss(attempt, optimizer, prepared, out).loss
        attempt.unchanged("the {} at the second call", {"loss": first}, {"loss": second})
        prepare(attempt, optimizer, made.batch)
        as_before(attempt, "what its modules and classes hold, at equal calls,", around, globals_of(optimizer))
        as_before(attempt, "every global generator of random numbers", drawn, randomness())
        attempt.require(pickle.dumps(optimizer) == known, "the optimizer itself unchanged", repr(optimizer))
    _moves_alike(attempt, optimizer)
    if isinstance(optimizer, HasNext):
        for report in reports(loss(attempt, optimizer, prepared, out)):
            with attempt.runs("next()"):
                one, other = optimizer.next(report), optimizer.next(report)
            attempt.require(type(one) is type(optimizer), f"next() returns a {type(optimizer).__name__}", repr(one))
            attempt.require(one == other, "the same successor twice", f"{one}, then {other}")


def _moves_alike(attempt: Attempt, optimizer: Optimizer) -> None:
    """`follow` says the same of a step each time, and names roles that there are."""
    known = {columns.REFERENCE, *specs_of(optimizer), *columns.roles(optimizer.needs)} - {columns.OLD}
    for step in range(1, 101):
        with attempt.runs(f"follow({step})"):
            one, other = following(optimizer, step), following(optimizer, step)
        attempt.require(one == other, f"follow({step}) twice the same", f"{one}, then {other}")
        attempt.require(one.keys() <= known, f"roles among {', '.join(sorted(known))}", ", ".join(sorted(one)))


def reads(optimizer: Optimizer, given: Given) -> None:
    """`prepare` makes the same of a batch that has no other filled columns than those in `prepare_reads`.

    The runner hides the others, to spare a forward pass.
    """
    if not traits_of(optimizer).reads_rewards:
        _reads_no_rewards(optimizer, given)
    cause = "a column that prepare() reads and prepare_reads does not name"
    for variant in without_weights(optimizer):
        hidden = columns.filled(variant.part.needs) - prepare_reads(variant.part)
        if not hidden:
            continue
        attempt = variant.of(Attempt(3, f"a batch without {', '.join(sorted(hidden))}", cause))
        made = case(variant.part, toy_groups(columns=given.columns))
        expected = columns_of(prepare(attempt, variant.part, made.batch))
        found = columns_of(prepare(attempt, variant.part, made.batch.answered(dict.fromkeys(hidden))))
        kept = {name: column for name, column in expected.items() if name.removeprefix("answers.") not in hidden}
        attempt.unchanged("what prepare makes of {}", kept, found)


def _reads_no_rewards(optimizer: Optimizer, given: Given) -> None:
    """Other rewards make no other gradient, where an optimizer says that it reads none."""
    cause = "a loss that reads batch.rewards, of an optimizer with reads_rewards = False: leave the trait out"
    attempt = Attempt(3, "the same batch with other rewards", cause)
    for dense in (False, True):
        made = case(optimizer, toy_groups(int(dense), columns=given.columns, dense=dense))
        found = []
        for rewards in (made.batch.rewards, 1.0 - 2.0 * made.batch.rewards):
            prepared = prepare(attempt, optimizer, replace(made.batch, rewards=rewards))
            found.append(pull(attempt, optimizer, prepared, leaves(answer(optimizer, made.policy, prepared))))
        for name, gradient in found[0].items():
            attempt.same(f"gradient in {name}", gradient, found[1][name])


def _copies(batch: Batch) -> dict[str, Tensor]:
    return {name: column.clone() for name, column in columns_of(batch).items()}


def mask(optimizer: Optimizer, given: Given) -> None:
    """Garbage under the mask does not change the gradient, and nothing there gets one."""
    cause = "a shift by one, or a sum over all positions: multiply by batch.mask, or take fn.log_ratio, before exp()"
    attempt = Attempt(2, "±1e3 under the mask of the batch and of the policy's answers", cause)
    for made, prepared in ragged(optimizer, given, attempt):
        if prepared.weights.ndim == 2:
            attempt.require(not prepared.weights[~prepared.mask].any(), "weights of 0 under the mask", "others")
        clean = leaves(answer(optimizer, made.policy, prepared))
        dirty = leaves(Forward.of(_poisoned(clean.columns(), prepared.mask)))
        spoiled = made.batch.with_columns(_poisoned(columns_of(made.batch), made.batch.mask))
        spoiled = prepare(attempt, optimizer, spoiled)
        spoiled = spoiled.with_columns(_poisoned(columns_of(spoiled), spoiled.mask))
        expected, found = pull(attempt, optimizer, prepared, clean), pull(attempt, optimizer, spoiled, dirty)
        for name, gradient in found.items():
            if gradient.ndim == 2:
                outside = gradient[~prepared.mask]
                attempt.require(not outside.any(), f"no gradient in {name} under the mask", summary(outside))
            attempt.same(f"gradient in {name}", expected[name], gradient)


def _poisoned(columns: dict[str, Tensor], where: Tensor) -> dict[str, Tensor]:
    """Columns with garbage where the mask is False, each its own; masks and weights stay."""
    rng = torch.Generator().manual_seed(0)
    spoiled = dict(columns)
    for name, column in columns.items():
        if column.ndim == 2 and name not in ("attend", "mask", "own", "weights"):
            garbage = 1e3 * torch.randn(column.shape, generator=rng)
            garbage = garbage.abs() % 13 if name == "tokens" else garbage
            spoiled[name] = torch.where(where, column.detach(), garbage.to(column.dtype))
    return spoiled
