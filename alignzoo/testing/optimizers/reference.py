"""What holds an optimizer near its reference: KL terms pull home, are a KL, and are steered towards their target."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo.interfaces import HasNext, Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.measure import REPORTED
from alignzoo.testing.optimizers.scene import Level, Pull, Variant, pull_of, runs, scene, variants
from alignzoo.traits import traits_of
from alignzoo.types import Batch, StepReport

ABOVE, BELOW = -0.7, -1.3
"""Log-probabilities of a policy that has moved up, and down, from a reference at -1."""


def _penalised(optimizer: Optimizer) -> list[Variant]:
    """Those variants of an online optimizer that read the reference."""
    return [each for each in variants(optimizer) if {"logprobs", "old_logprobs", "ref_logprobs"} <= each.part.needs]


def _winners_and_losers(given: Given) -> Batch:
    """Four pairs: the winners of the first two are alike, and the losers of the last two."""
    return scene([3] * 8, [0, 0, 1, 1, 2, 2, 3, 3], [1.0, 0.0] * 4, given)


def _strength(attempt: Attempt, variant: Variant, batch: Batch, *, old: bool = True) -> tuple[float, float] | None:
    """By how much less an answer above the reference is raised than one below it: of winners, and of losers.

    With `old=False` the policy has moved since the step began, so that it is above the old policy as well.
    """
    moved = torch.tensor([ABOVE, -1.0, BELOW, -1.0, -1.0, ABOVE, -1.0, BELOW])
    values: dict[str, Level] = {"logprobs": moved, "old_logprobs": moved if old else -1.0, "ref_logprobs": -1.0}
    found = pull_of(attempt, variant.part, batch, values)
    if found is None:
        return None
    rows = found.rows()
    return float(rows[2] - rows[0]), float(rows[7] - rows[5])


def kl_pull(optimizer: Optimizer, given: Given) -> None:
    """Between two answers as good, the one above the reference is raised less than the one below; distances shrink."""
    cause = "the sign of the KL term, its arguments changed over, k1 in the loss, or a KL to another than the reference"
    attempt = Attempt(13, "pairs alike but for their place, 0.3 nats per token above or below the reference", cause)
    batch = _winners_and_losers(given)
    for variant in _penalised(optimizer):
        if not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        found = _strength(at, variant, batch)
        for who, gap in zip(("better", "worse"), found or (), strict=False):
            if _weight(variant.part) != 0 and (gap or _reads_reference(at, variant, batch)):
                expected = f"of {who} answers, the one below the reference to be raised more than the one above it"
                at.require(gap > 1e-7, expected, f"a pull larger by {gap:.3g}")
    for variant in variants(optimizer):
        distances = [n for n in variant.part.needs if columns.column(n).answer.compares]
        if not distances or not runs(variant, attempt, batch):
            continue
        pulled = pull_of(variant.of(attempt), variant.part, batch)
        for name in distances if pulled is not None else ():
            assert pulled is not None
            highest = float(pulled.on[name].max())
            variant.of(attempt).require(
                highest <= 0, f"no pull that raises {name}, a distance", f"one of {highest:.3g}"
            )


def _reads_reference(attempt: Attempt, variant: Variant, batch: Batch) -> bool:
    """Whether the gradient depends on the reference: another term's weight of 0 may take it away. Else
    `columns_read` says whether that is a mistake."""
    near, far = (pull_of(attempt, variant.part, batch, {"ref_logprobs": level}) for level in (-1.0, -1.5))
    return near is not None and far is not None and not torch.equal(near.on["logprobs"], far.on["logprobs"])


def _weight(part: Optimizer) -> float:
    """The weight of the KL where the optimizer declares which field it is; 1 where it does not."""
    name = traits_of(part).kl_weight
    return float(getattr(part, name)) if name else 1.0


SAMPLED = (0, 0, 0, 0, 1, 1, 2, 3)
"""Eight answers of one token, as often as a policy with the probabilities ½, ¼, ⅛, ⅛ generates each."""
OWN, REFERENCE = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.tensor([0.2, 0.2, 0.35, 0.25])


def kl_estimate(optimizer: Optimizer, given: Given) -> None:
    """Over answers that the policy generates as often as it says, the KL term has the gradient of a KL."""
    cause = "an estimator for the other direction's samples, k1 in the loss, or a ratio without its gradient"
    one = "eight equally good answers of one token, four of the first, two of the second, two others"
    attempt = Attempt(13, f"{one}: a policy's own", cause)
    batch = scene([1] * 8, [0] * 8, [1.0] * 8, given)
    token = torch.tensor(SAMPLED)
    reverse = -OWN * ((OWN / REFERENCE).log() - (OWN * (OWN / REFERENCE).log()).sum())  # -∇ KL(π ‖ ref)
    forward = REFERENCE - OWN  # -∇ KL(ref ‖ π)
    for variant in _penalised(optimizer):
        if _weight(variant.part) == 0 or not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        values: dict[str, Level] = {"logprobs": OWN.log()[token], "ref_logprobs": REFERENCE.log()[token]}
        found = pull_of(at, variant.part, batch, {**values, "old_logprobs": values["logprobs"]})
        if found is not None:
            likest = max(_cosine(_logits(found, token, OWN), each) for each in (reverse, forward))
            expected = "a pull along the gradient of KL(π ‖ ref) or of KL(ref ‖ π)"
            at.require(likest > 1 - 1e-4, expected, f"one whose cosine with the nearer of the two is {likest:.4f}")
        _unbiased(at, variant, batch, reverse)


def _unbiased(attempt: Attempt, variant: Variant, batch: Batch, reverse: Tensor) -> None:
    """Where the term's value is KL(π ‖ ref) for another policy's samples, by a ratio, so must be its gradient."""
    token, tilted = torch.tensor(SAMPLED), torch.tensor([0.4, 0.3, 0.2, 0.1])
    values: dict[str, Level] = {"logprobs": tilted.log()[token], "old_logprobs": OWN.log()[token]}
    found = pull_of(attempt, variant.part, batch, {**values, "ref_logprobs": REFERENCE.log()[token]})
    if found is None or "loss/kl" not in found.terms.metrics:
        return
    whole = (tilted * (tilted / REFERENCE).log()).sum()
    if abs(float(found.terms.metrics["loss/kl"].detach().sum() / len(batch) - whole)) > 1e-5:
        return
    exact = -tilted * ((tilted / REFERENCE).log() - whole)
    likest = _cosine(_logits(found, token, tilted), exact)
    expected = "the gradient of KL(π ‖ ref) from older samples, as loss/kl is its value"
    attempt.require(likest > 1 - 1e-4, expected, f"one whose cosine with it is {likest:.4f}")


def _logits(found: Pull, token: Tensor, policy: Tensor) -> Tensor:
    """The pull on the logits of the policy's four tokens."""
    rows = found.rows()
    return torch.zeros(4).index_add(0, token, rows) - policy * rows.sum()


def _cosine(one: Tensor, other: Tensor) -> float:
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 1e-12 else 0.0


def adaptive(optimizer: Optimizer, given: Given) -> None:
    """A coefficient that `next` steers turns towards its target, and a baseline that it carries follows the rewards."""
    if not isinstance(optimizer, HasNext):
        return
    cause = "an error with its sign turned, or a coefficient divided where it should be multiplied"
    attempt = Attempt(13, "reports of steps that differ in one figure", cause)
    batch = _winners_and_losers(given)
    for variant in variants(optimizer):
        if runs(variant, attempt, batch):
            _steers(variant.of(attempt), variant, batch)
            _settles(variant.of(attempt), variant, batch)
    for phase in _phases(optimizer):
        if runs(phase, attempt, batch):
            _ends(phase.of(attempt), phase, batch)


def _steers(attempt: Attempt, variant: Variant, batch: Batch) -> None:
    """Each coefficient turns towards its target, and a baseline follows the rewards."""
    needs = variant.part.needs
    steps = [_successor(attempt, variant, "kl", 1e-4), variant, _successor(attempt, variant, "kl", 50.0)]
    for old in (True, False) if "logprobs" in needs else ():
        pulls = [_strength(attempt, each, batch, old=old) or () for each in steps]
        for less, now, more in zip(*pulls, strict=True):
            if less == more:
                continue  # the KL steers nothing here: what has changed goes by the steps, or by other figures
            found = f"{more:.6g} after a large KL, {now:.6g} before, {less:.6g} after a small KL"
            holds = less <= now + 1e-4 * abs(now) and now <= more + 1e-4 * abs(now)
            attempt.require(
                holds, "a pull home that grows with a KL above its target and falls with one below it", found
            )
    if "entropy" in needs:
        low, high = (_sum(attempt, variant, batch, "entropy", level, "entropy") for level in (0.0, 5.0))
        attempt.require(low >= high - 1e-9, "a bonus no smaller after a small entropy", f"{low:.4g}, beside {high:.4g}")
    if {"logprobs", "old_logprobs"} <= needs:
        low, high = (_sum(attempt, variant, batch, "reward", level, "logprobs") for level in (-5.0, 5.0))
        expected = "an answer raised no more after a step with better rewards than after one with worse"
        attempt.require(high <= low + 1e-6, expected, f"{high:.4g}, beside {low:.4g}")


def _sum(attempt: Attempt, variant: Variant, batch: Batch, name: str, level: float, answer: str) -> float:
    """The pull on all answers after steps that have reported this level."""
    found = pull_of(attempt, _successor(attempt, variant, name, level).part, batch)
    return 0.0 if found is None else float(found.on[answer].sum())


def _successor(attempt: Attempt, variant: Variant, name: str, level: float) -> Variant:
    """What the optimizer is after a few steps that all report this level of the KL, the entropy or the reward."""
    family = ("kl", "approx_kl", "loss/kl") if name == "kl" else (name,)
    usual: Mapping[str, float] = dict.fromkeys((*REPORTED, "reward/mean", "approx_kl", "loss/kl"), 0.01)
    metrics = {n: level if n.startswith(family) else usual[n] for n in usual}
    part = variant.part
    for step in range(1, 21):
        with attempt.runs("next()"):
            part = part.next(StepReport(step, 20, {**metrics, "completions": 8.0}))
    return Variant(part, variant.what)


def _settles(attempt: Attempt, variant: Variant, batch: Batch) -> None:
    """What follows figures of the method's own comes to rest where they do."""
    found = pull_of(attempt, variant.part, batch)
    usual: Mapping[str, float] = dict.fromkeys((*REPORTED, "reward/mean"), 0.01)
    runs_of = []
    for level in (1.0, 2.0):
        own = {} if found is None else dict.fromkeys(found.terms.metrics, level)
        runs_of.append([variant.part])
        for step in range(1, 41):
            with attempt.runs("next()"):
                report = StepReport(step, 40, {**usual, **own, "completions": 8.0})
                runs_of[-1].append(runs_of[-1][-1].next(report))
    for name in (each.name for each in dataclasses.fields(variant.part)):
        low, high = ([getattr(part, name) for part in parts] for parts in runs_of)
        if low == high or not all(isinstance(level, float) for level in low):
            continue  # it does not follow them: a count, or a setting
        first, last = abs(low[1] - low[0]), abs(low[-1] - low[-2])
        told = f"it moves by {first:.3g} at first, and by {last:.3g} in the 40th"
        attempt.require(last <= 0.5 * first + 1e-6, f"{name} to settle where all steps report the same", told)


def _phases(optimizer: Optimizer) -> list[Variant]:
    """The variants that train no policy at the start: a whole number, set to 2, that keeps it waiting."""
    found = []
    for field in dataclasses.fields(optimizer):  # type: ignore[arg-type]
        value = getattr(optimizer, field.name)
        if field.init and isinstance(value, int) and not isinstance(value, bool) and "logprobs" in optimizer.needs:
            with contextlib.suppress(ValueError, TypeError):  # it refuses to take this one
                part = dataclasses.replace(optimizer, **{field.name: 2})  # type: ignore[type-var]
                found.append(Variant(part, f"{field.name} = 2"))
    return found


def _ends(attempt: Attempt, variant: Variant, batch: Batch) -> None:
    """A phase in which the policy waits ends after as many steps as it says, or a few more."""
    later = pull_of(attempt, _successor(attempt, variant, "kl", 0.01).part, batch)
    waits = later is not None and not later.on["logprobs"].any()
    attempt.require(not waits, "the policy to be trained at last", "no gradient in it after 20 steps")
