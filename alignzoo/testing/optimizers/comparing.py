"""What a comparison of answers comes to: who is raised, by how much, and how far from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import (
    Level,
    Pull,
    Scene,
    Variant,
    accompanied,
    compares,
    learnt,
    pull_of,
    runs,
    scene,
    variants,
)
from alignzoo.traits import traits_of
from alignzoo.types import Batch

PLACES = ((-0.05, 0.0, 0.0), (-1.0, 0.4, 0.0), (-1.0, -0.4, 0.0), (-1.0, 0.4, 0.5), (-1.0, -0.4, 0.5), (-8.0, 0.0, 0.0))
"""A log-probability per token, nearly certain, usual or unlikely; by how many nats both answers have risen above the
reference; and by how many the worse one is above the better one."""


def _read(part: Optimizer) -> str:
    return "logprobs" if "logprobs" in part.needs else "scores"


def _lead(found: Pull, part: Optimizer, first: int = 0) -> float:
    """By how much an answer is raised over the one after it."""
    rows = found.rows(_read(part))
    return float(rows[first] - rows[first + 1])


def _compared(attempt: Attempt, optimizer: Optimizer, batch: Batch) -> list[Variant]:
    """The variants whose pull in this scene depends on which answer is better; in distillation none does."""
    found = []
    reverse = replace(batch, rewards=1 - batch.rewards)
    for variant in variants(optimizer):
        if not {"logprobs", "scores"} & variant.part.needs or not runs(variant, attempt, batch):
            continue
        pulls = [pull_of(variant.of(attempt), variant.part, each) for each in (batch, reverse)]
        rows = [None if each is None else each.rows(_read(variant.part)) for each in pulls]
        if rows[0] is not None and (rows[1] is None or not torch.equal(rows[0], rows[1])):
            found.append(variant)
    return found


def better_rises(optimizer: Optimizer, given: Given) -> None:
    """Where the better of two answers is not ahead, it is raised over the worse, however likely both are."""
    cause = "a sign in a term that is 0 at the start, as a penalty or odds, or its arguments changed over"
    attempt = Attempt(13, "one good and one bad answer", cause)
    batch = scene([2, 2], [0, 0], [1.0, 0.0], given)
    for variant in _compared(attempt, optimizer, batch):
        for level, rise, behind in PLACES:
            own = torch.tensor([level, level + behind])
            values: dict[str, Level] = {"logprobs": own, "old_logprobs": own, "ref_logprobs": level - rise}
            found = pull_of(attempt, variant.part, batch, {**values, "scores": own})
            lead = 0.0 if found is None else _lead(found, variant.part)
            where = f"of {level:g} and {level + behind:g} nats per token, where the reference says {level - rise:g}"
            at = variant.of(replace(attempt, given=f"{attempt.given} {where}"))
            at.require(lead >= -1e-7, "the better to be raised over the worse, or no less", f"by {lead:.3g}")


def stakes(optimizer: Optimizer, given: Given) -> None:
    """The farther apart two rewards are, the more the better answer is raised over the worse, and never less."""
    cause = "an offset with its sign turned, or the reciprocal of a weight"
    attempt = Attempt(13, "a pair with the rewards 1 and 0, or 3 and 0, beside another pair", cause)
    small = scene([2] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    large = replace(small, rewards=torch.tensor([3.0, 0.0, 1.0, 0.0]))
    for variant in _compared(attempt, optimizer, small):
        at, shares = variant.of(attempt), []
        for batch in (small, large):
            found = pull_of(at, variant.part, batch)
            if found is not None:  # beside the other pair: a batch's own scale is no matter of one pair
                shares.append(_lead(found, variant.part) / max(abs(_lead(found, variant.part, 2)), 1e-12))
        if len(shares) == 2:
            holds = shares[1] >= shares[0] - 1e-4 * abs(shares[0]) - 1e-7
            at.require(holds, "no smaller lead for 3 than for 1", f"{shares[1]:.4g}, beside {shares[0]:.4g}")


def other_length(optimizer: Optimizer, given: Given) -> None:
    """How long the other answer is does not change the pull on an answer, in a loss over pairs or lists."""
    if traits_of(optimizer).couples == "row" or not compares(optimizer, given):
        return
    cause = "the length of one answer taken for the other's, or one length for both"
    attempt = Attempt(13, "a pair as likely as before, one answer of 4 tokens, the other of 2 or of 8", cause)
    for variant in variants(optimizer):
        if "logprobs" not in variant.part.needs or "old_logprobs" in variant.part.needs:
            continue  # a mean over all tokens counts those of all answers
        at = variant.of(attempt)
        for row in (0, 1):
            changes = [_by_the_others_length(at, variant, given, row, total) for total in (False, True)]
            least = min((each for each in changes if each is not None), default=0.0)
            at.require(least <= 1e-4, "the same pull", f"one that differs by {least:.3g} of it")


def _by_the_others_length(attempt: Attempt, variant: Variant, given: Given, row: int, total: bool) -> float | None:
    """By which share the pull on an answer changes with the other's length, their likelihoods in total, or per token,
    kept as they are."""
    pulls = []
    for other in (2, 8):
        lengths = [4, other] if row == 0 else [other, 4]
        batch = scene(lengths, [0, 0], [1.0, 0.0], given)
        level = -4.0 / torch.tensor(lengths) if total else -torch.ones(2)
        values: dict[str, Level] = {"logprobs": level, "ref_logprobs": level, "ref_kl": 0.0}
        found = pull_of(attempt, variant.part, batch, values) if runs(variant, attempt, batch) else None
        if found is None:
            return None
        pulls.append(found.on["logprobs"][row, 1:5])
    return float((pulls[0] - pulls[1]).abs().max()) / max(float(pulls[0].abs().max()), 1e-9)


def kl_strength(optimizer: Optimizer, given: Given) -> None:
    """The larger the weight of the KL, the sooner the pull that leads away from the reference ends."""
    name = traits_of(optimizer).kl_weight
    if not name or "old_logprobs" in optimizer.needs or not {"logprobs", "ref_logprobs"} <= optimizer.needs:
        return  # of a term of its own `kl_pull` speaks
    cause = "a coefficient by which something is divided that it should multiply"
    attempt = Attempt(13, f"a pair at the reference, then 2 nats per token away; {name}, then three times it", cause)
    batch = scene([2, 2], [0, 0], [1.0, 0.0], given)
    weight = getattr(optimizer, name)
    shares = [_share_left(attempt, optimizer, batch, {name: factor * weight}) for factor in (1.0, 3.0)]
    if shares[0] is not None and shares[1] is not None:
        found = f"{shares[1]:.4g} of it, beside {shares[0]:.4g}"
        attempt.require(shares[1] < shares[0], f"less to be left of the first lead with a larger {name}", found)


def _share_left(attempt: Attempt, optimizer: Any, batch: Batch, changes: Mapping[str, float]) -> float | None:
    """How much of the lead at the reference is left far from it."""
    try:
        part = replace(optimizer, **changes)
    except (ValueError, TypeError):
        return None  # it does not take this weight
    leads = []
    for away in (0.0, 2.0):
        own = torch.tensor([-3.0 + away, -3.0 - away])
        found = pull_of(attempt, part, batch, {"logprobs": own, "ref_logprobs": -3.0})
        leads.append(0.0 if found is None else _lead(found, part))
    return leads[1] / leads[0] if leads[0] > 1e-9 else None


def centring(optimizer: Optimizer, given: Given) -> None:
    """What scores, and has a setting `centring`, pulls the scores of an answer's whole group towards 0."""
    if "scores" not in optimizer.needs or not hasattr(optimizer, "centring"):
        return
    cause = "the difference of two scores taken for their sum, or the sign of the term"
    attempt = Attempt(13, "one good and one bad answer with the same score, centring = 0.1", cause)
    batch = scene([2, 2], [0, 0], [1.0, 0.0], given)
    part = replace(optimizer, centring=0.1)  # type: ignore[type-var]
    for score in (2.0, -2.0):
        found = pull_of(attempt, part, batch, {"scores": score})
        pull = 0.0 if found is None else float(found.rows("scores").sum())
        attempt.require(pull * score < -1e-6, f"a pull towards 0 on scores of {score:g}", f"{pull:.3g}")


def sources(optimizer: Optimizer, given: Given) -> None:
    """Who reads each reward by itself weighs it as the recipe does."""
    cause = "rewards added up without their weights"
    attempt = Attempt(
        13, "two rewards that disagree about two of three answers, then five times the weight of one", cause
    )
    batch = scene([2, 2, 2], [0, 0, 0], [0.5, 0.5, 0.5], given)
    one, other = torch.tensor([1.0, 0.0, 0.9]), torch.tensor([0.0, 1.0, 0.0])
    for variant in variants(optimizer):
        if not {"logprobs", "scores"} & variant.part.needs or not runs(variant, attempt, batch):
            continue
        leads = []
        for weights in ({"first": 5.0, "second": 1.0}, {"first": 1.0, "second": 5.0}):
            apart = replace(batch, sources={"first": one, "second": other}, source_weights=weights)
            found = pull_of(variant.of(attempt), variant.part, apart)
            leads.append(0.0 if found is None else _lead(found, variant.part))
        turned = replace(batch, sources={"first": -one, "second": -other}, source_weights={"first": 5.0, "second": 1.0})
        found = pull_of(variant.of(attempt), variant.part, turned)
        reads = abs((0.0 if found is None else _lead(found, variant.part)) - leads[0]) > 1e-7
        if reads or leads[0] != leads[1]:
            holds, told = leads[0] > 1e-7 and leads[1] < -1e-7, f"leads of {leads[0]:.3g} and {leads[1]:.3g}"
            variant.of(attempt).require(holds, "the answer that the heavier reward likes to lead", told)


def ties(optimizer: Optimizer, given: Given) -> None:
    """Two answers as good are pulled by how likely they are, not by their place, and no farther apart."""
    batch = scene([3, 3], [0, 0], [0.7, 0.7], given)
    if traits_of(optimizer).imitates or batch.roles or not compares(optimizer, given):
        return  # one of equals has to be imitated
    cause = "the first of equals taken for the better one, or a sign in what is learnt from ties"
    attempt = Attempt(13, "two answers as good, one likelier than the other; then the other one", cause)
    untied = replace(batch, rewards=torch.tensor([1.0, 0.0]))
    for variant in variants(optimizer):
        if not runs(variant, attempt, untied):
            continue
        at, pulls = variant.of(attempt), []
        for own in (torch.tensor([-0.7, -1.3]), torch.tensor([-1.3, -0.7])):
            values: dict[str, Level] = {"logprobs": own, "old_logprobs": own, "ref_logprobs": -1.0, "scores": own}
            found = pull_of(at, variant.part, batch, values)
            if found is None or not learnt(found.on):
                break
            pulls.append(found.rows(learnt(found.on)))
        if len(pulls) < 2:
            continue
        at.near("pulls, turned round", pulls[0], pulls[1].flip(0), 1e-5)
        if not variant.what:
            gap = float(pulls[0][0] - pulls[0][1])
            at.require(gap <= 1e-6, "no pull that takes equals farther apart", f"one of {gap:.3g}")


def role_point(optimizer: Optimizer, given: Given) -> None:
    """What rows of a role set as a point of reference, answers are measured from; the role's rows get no pull."""
    batch = scene([3] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    if not batch.roles or not {"logprobs", "ref_logprobs"} <= optimizer.needs:
        return
    cause = "a sign or a factor of the point of reference, or its rows trained on"
    attempt = Attempt(13, "answers, and rows of a role, that have all risen", cause)
    wide, origin = accompanied(batch)
    assert isinstance(wide, Scene)
    wide = replace(wide, roles={})
    role = torch.tensor([row > 0 and bool(origin[row] == origin[row - 1]) for row in range(len(origin))])
    pulls = []
    for own, point in ((-0.9, -0.8), (-0.9, -0.7), (-0.6, -0.5)):
        values: dict[str, Level] = {
            "logprobs": torch.where(role, point, own),
            "old_logprobs": -1.0,
            "ref_logprobs": -1.0,
        }
        found = pull_of(attempt, optimizer, wide, values)
        if found is None:
            return
        pulls.append(found.rows())
    first, moved, shifted = pulls
    if float((first - moved)[~role].abs().max()) < 1e-7:
        return  # the role is no point of reference
    attempt.near("pulls where all have risen as much more", first[~role], shifted[~role], 1e-5)
    most = float(first[role].abs().max())
    attempt.require(most <= 1e-7, "no pull on the rows of the role", f"one of {most:.3g}")
