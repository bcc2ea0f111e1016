"""What stays apart: other groups, rewards that abstain, what came before, the KL of one answer and of another."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import Level, Pull, compares, learnt, pull_of, runs, scene, variants
from alignzoo.traits import prepare_reads, traits_of
from alignzoo.types import Batch


def other_groups(optimizer: Optimizer, given: Given) -> None:
    """Other groups' rewards change the pulls within a group by one factor at most, as a batch's deviation is.

    For optimizers that compare a prompt's completions.
    """
    if not compares(optimizer, given):
        return
    cause = "a mean over the batch where the group's own belongs"
    attempt = Attempt(6, "two groups, then the same with other rewards in the second", cause)
    batch = scene([2] * 6, [0, 0, 0, 1, 1, 1], [1.0, 0.0, 0.3, 0.0, 1.0, 0.7], given)
    other = replace(batch, rewards=torch.tensor([1.0, 0.0, 0.3, 0.6, 1.0, 0.9]))
    for variant in variants(optimizer):
        if (variant.what and not variant.choice) or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        one, two = (pull_of(at, variant.part, each) for each in (batch, other))
        if one is None or two is None or not learnt(one.on):
            continue
        first, second = (each.rows(learnt(each.on))[:3] for each in (one, two))
        size = float(first.norm() * second.norm())
        if size > 1e-12:
            cosine = float(first @ second) / size
            at.require(cosine > 1 - 1e-4, "the first group's pulls, but for one factor", f"a cosine of {cosine:.4f}")


def loser_falls(optimizer: Optimizer, given: Given) -> None:
    """Who compares answers that the policy generated lowers the worst one: it learns from what went wrong, too."""
    traits = traits_of(optimizer)
    if not traits.online or traits.imitates or "logprobs" not in optimizer.needs or not compares(optimizer, given):
        return  # who imitates the best answer leaves the others as they are
    cause = "advantages cut off at 0, or only the better half of a group kept"
    attempt = Attempt(6, "a group with the rewards 1, -1 and 0.5, before training", cause)
    batch = scene([4, 4, 4], [0, 0, 0], [1.0, -1.0, 0.5], given)
    for variant in variants(optimizer):
        if not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        found, other = (pull_of(at, variant.part, each) for each in (batch, replace(batch, rewards=-batch.rewards)))
        if found is None or other is None or torch.equal(found.on["logprobs"], other.on["logprobs"]):
            continue  # rewards say nothing to it, as in distillation
        lowest = float(found.rows()[1])
        at.require(lowest < -1e-9, "a pull down on the worst answer", f"{lowest:.3g}")


def abstained(optimizer: Optimizer, given: Given) -> None:
    """A reward that abstained from an answer is not a reward of 0."""
    cause = "nan_to_num() without its mask"
    attempt = Attempt(13, "two rewards of which one abstains from one of four answers, then 10 more of that one", cause)
    batch = scene([2] * 4, [0] * 4, [0.5] * 4, given)
    one = torch.tensor([1.0, 0.0, 0.5, 0.2])
    others = [torch.tensor([0.4, 1.0, 0.1, last]) for last in (0.7, math.nan)]
    for number, variant in enumerate(variants(optimizer)):
        if not {"logprobs", "scores"} & variant.part.needs or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        whole = [_with_sources(at, variant.part, batch, one, others[0] + more) for more in (0, 10)]
        if not number and _alike(whole[0], _with_sources(at, variant.part, batch, one, -others[0])):
            return  # it does not read rewards by themselves
        if any(each is None for each in whole) or not _alike(*whole):
            continue  # to it 10 more for all is something else, as it is where a limit is set
        holed = [_with_sources(at, variant.part, batch, one, others[1] + more) for more in (0, 10)]
        at.require(_alike(*holed), "the same pulls, for all that have the reward have 10 more", "others")


def _with_sources(attempt: Attempt, part: Optimizer, batch: Batch, one: Tensor, other: Tensor) -> Pull | None:
    apart = replace(batch, sources={"first": one, "second": other}, source_weights={"first": 1.0, "second": 1.0})
    return pull_of(attempt, part, apart)


def _alike(one: Pull | None, other: Pull | None) -> bool:
    if one is None or other is None:
        return one is other
    first, second = (each.on[learnt(each.on)].flatten() for each in (one, other))
    return bool((first - second).abs().max() <= 1e-4 * first.abs().max() + 1e-9)


def no_hindsight(optimizer: Optimizer, given: Given) -> None:
    """What a teacher says of a token is no credit of a later one: nothing that comes after has brought it about."""
    cause = "a sum over what came before a token, or over the whole answer, for the sum over what comes after"
    attempt = Attempt(13, "a teacher that finds the second of four tokens likelier", cause)
    batch = scene([4, 4], [0, 0], [1.0, 0.0], given)
    for variant in variants(optimizer):
        names = [
            name
            for name in sorted(columns.filled(variant.part.needs))
            if columns.column(name).answer.name == "logprobs"
            and columns.column(name).role not in (columns.OLD, columns.REFERENCE)
        ]
        if not names or "logprobs" not in variant.part.needs or not runs(variant, attempt, batch):
            continue
        at, likelier = variant.of(attempt), torch.full(batch.mask.shape, -1.0)
        likelier[0, 2] += 0.5
        plain: dict[str, Level] = dict.fromkeys(names, -1.0)
        own: dict[str, Level] = {"logprobs": -1.0, "old_logprobs": -1.0, "ref_logprobs": -1.0}
        before = pull_of(at, variant.part, batch, own | plain)
        after = pull_of(at, variant.part, batch, own | dict.fromkeys(names, likelier))
        if before is None or after is None:
            continue
        change = (after.on["logprobs"] - before.on["logprobs"])[0]
        if float(change.abs().max()) > 1e-7:
            later = float(change[3:].abs().max())
            at.require(later <= 1e-6, "no other pull on the tokens after it", f"one that is {later:.3g} away")


def far_behind(optimizer: Optimizer, given: Given) -> None:
    """A score that is far on the wrong side is pulled back."""
    if "scores" not in optimizer.needs:
        return
    cause = "scores that are cut to a range before they are compared: outside of it nothing is learnt"
    attempt = Attempt(13, "a good and a bad answer", cause)
    batch = scene([2, 2], [0, 0], [1.0, 0.0], given)
    reverse = replace(batch, rewards=1 - batch.rewards)
    for variant in variants(optimizer):
        if not runs(variant, attempt, batch):
            continue
        for good, bad in ((-6.0, -3.0), (3.0, 6.0), (-6.0, 6.0)):
            at = variant.of(replace(attempt, given=f"{attempt.given} with the scores {good:g} and {bad:g}"))
            values: dict[str, Level] = {"scores": torch.tensor([good, bad])}
            found, other = (pull_of(at, variant.part, each, values) for each in (batch, reverse))
            if found is None or other is None:
                continue
            rows = found.rows("scores")
            if not torch.equal(rows, other.rows("scores")) or not bool(rows.any()):
                lead = float(rows[0] - rows[1])
                at.require(lead > 1e-9, "the good one to be raised over the bad one", f"a lead of {lead:.3g}")


def kl_share(optimizer: Optimizer, given: Given) -> None:
    """A KL to the reference in the loss weighs each token as the rest of the loss does."""
    name = traits_of(optimizer).kl_weight
    if not name or not {"logprobs", "ref_logprobs"} <= optimizer.needs:
        return
    cause = "a sum over an answer's tokens on each of them, or a mean over another number of tokens"
    attempt = Attempt(13, f"answers of 2 and of 6 tokens, all as far from the reference, and twice the {name}", cause)
    batch = scene([2, 6], [0, 0], [0.5, 0.5], given)
    values: dict[str, Level] = {"logprobs": -0.7, "old_logprobs": -0.7, "ref_logprobs": -1.0}
    for variant in variants(optimizer):
        if not runs(variant, attempt, batch) or not (weight := getattr(variant.part, name)):
            continue
        if "ref_logprobs" in prepare_reads(variant.part):
            continue  # its KL is a part of the reward
        at = variant.of(attempt)
        twice = replace(variant.part, **{name: 2 * weight})
        one, two = (pull_of(at, part, batch, values) for part in (variant.part, twice))
        if one is None or two is None or one.terms.loss.ndim == 1 or len(one.origin) < 2:
            continue
        change = (two.on["logprobs"] - one.on["logprobs"])[one.origin]
        weights, mask = one.prepared.weights, one.prepared.mask
        weights = weights[:, None] * mask if weights.ndim == 1 else weights
        where = mask & (weights > 0)
        if float(change.abs().max()) <= 1e-8 or not bool(where.any()):
            continue
        share = (change[where] / weights[where]).abs()
        least, most = float(share.min()), float(share.max())
        at.require(most <= 1.01 * least + 1e-9, "a pull in proportion to the weights", f"{least:.3g} to {most:.3g}")


def reach(optimizer: Optimizer, given: Given) -> None:
    """A token's KL in the reward is charged to it and to what came before it, no more to what comes after."""
    if not {"logprobs", "old_logprobs", "ref_logprobs"} <= optimizer.needs:
        return
    names = {field.name for field in fields(optimizer)} & {"gamma", "lam"}  # type: ignore[arg-type]
    part: Any = replace(optimizer, **dict.fromkeys(names, 1.0))  # type: ignore[type-var]
    cause = "a sum of the KL so far in the place of the KL to come"
    attempt = Attempt(
        13, "four answers, in one of which the first, or the last, of four tokens is off the reference", cause
    )
    batch = scene([4] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    credits = []
    for column in (None, 1, 4):
        reference = torch.full(batch.mask.shape, -1.0)
        if column is not None:
            reference[0, column] -= 0.5
        values: dict[str, Level] = {"logprobs": -1.0, "old_logprobs": -1.0, "ref_logprobs": reference}
        found = pull_of(attempt, part, batch, values)
        credit = None if found is None else found.prepared.advantages
        if credit is None or credit.ndim == 1 or len(credit) < len(batch):
            return
        credits.append(credit)
    early, late = (each - credits[0] for each in credits[1:])  # beside the other winner, which whitening moves as well
    forward, back = float((early[0, 4] - early[2, 4]).abs()), float((late[0, 1] - late[2, 1]).abs())
    holds = forward <= back + 1e-5
    attempt.require(
        holds, "the last token to pay no more for the first than the reverse", f"{forward:.3g}, and {back:.3g}"
    )


def dropped(optimizer: Optimizer, given: Given) -> None:
    """How long an answer is that `prepare` leaves out changes no pull."""
    cause = "weights made before rows are left out: a mean over tokens that nobody trains on"
    attempt = Attempt(13, "groups of a good and a bad answer, the bad ones of 2 tokens, then of 7", cause)
    found = []
    for length in (2, 7):
        pulled = pull_of(attempt, optimizer, scene([3, length, 4, length], [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given))
        if pulled is None or not learnt(pulled.on) or {1, 3} & set(pulled.origin.tolist()):
            return
        found.append(pulled.rows(learnt(pulled.on)))
    attempt.near("pulls", found[0], found[1], 1e-5)
