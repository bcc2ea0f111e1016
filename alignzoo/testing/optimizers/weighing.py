"""By how much: what a pull may be divided by, and how soft labels and margins move it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import (
    Level,
    Pull,
    Variant,
    compares,
    learnt,
    noise,
    pull_of,
    runs,
    scene,
    variants,
)
from alignzoo.types import Batch

LENGTHS, REWARDS = [3, 5, 4, 2, 6, 3], [1.0, 0.0, 0.5, 0.0, 2.0, 0.0]


def normaliser(optimizer: Optimizer, given: Given) -> None:
    """A longer prompt changes nothing; twice the groups halve each pull; `reduction` weighs rows or tokens alike."""
    cause = "prompt tokens counted in a length, N divided by twice or not at all, or weights of another reduction"
    attempt = Attempt(1, "two ragged groups", cause)
    groups = [0, 0, 0, 1, 1, 1]
    short = scene(LENGTHS, groups, REWARDS, given)
    long = scene(LENGTHS, groups, REWARDS, given, prompt=4)
    twice = scene(LENGTHS * 2, [*groups, *(2 + g for g in groups)], REWARDS * 2, given)
    for variant in variants(optimizer):
        if not runs(variant, attempt, short):
            continue
        at = variant.of(attempt)
        one, other, double = (pull_of(at, variant.part, b, _moved(b, short)) for b in (short, long, twice))
        if one is None or other is None or double is None:
            continue
        for name, pull in one.on.items():
            after = other.on[name]
            if pull.ndim == 2:
                pull, after = pull[:, 1:], after[:, 4:]
            dataclasses.replace(at, given="a prompt of one token, then of four").same(f"pull on {name}", pull, after)
            size, half = float(pull.norm()), float(double.on[name][: len(short)].norm())
            holds = abs(2 * half - size) <= 0.15 * size + 1e-9  # a batch's own statistics have ddof = 1
            at.require(holds, f"half the pull on {name} in twice the groups", f"{half / max(size, 1e-12):.3g} times it")
        _as_declared(at, variant, one)


def _moved(batch: Batch, first: Batch) -> dict[str, Level]:
    """All rows moved from their old policy and reference, by the same for the same completion."""
    values: dict[str, Level] = {}
    for seed, name in enumerate(("logprobs", "old_logprobs", "ref_logprobs", "old_values", "values", "scores")):
        drawn = noise(first, 0.1, seed)[:, 1:].repeat(len(batch) // len(first), 1)
        level = torch.nn.functional.pad(drawn, (batch.tokens.shape[1] - drawn.shape[1], 0))
        values[name] = level[:, -1] if name == "scores" else level + (-1.0 if name.endswith("logprobs") else 0.0)
    return values


def _as_declared(attempt: Attempt, variant: Variant, found: Pull) -> None:
    """A setting `reduction` says whether rows or tokens count alike."""
    reduction, weights = getattr(variant.part, "reduction", None), found.prepared.weights
    if weights.ndim == 1 or reduction not in ("sequence", "token"):
        return
    counted = weights.sum(1) if reduction == "sequence" else weights[found.prepared.mask]
    what = (
        "a row's weights to add up to the same in each row" if reduction == "sequence" else "each token's weight alike"
    )
    attempt.require(float(counted.max() - counted.min()) <= 1e-5, what, f"{counted.min():.3g} to {counted.max():.3g}")


def label_smoothing(optimizer: Optimizer, given: Given) -> None:
    """A `label_smoothing` of ε is (1-ε) times the pull of the labels as they are, and ε times that of the reverse."""
    known = _setting(optimizer, "label_smoothing")
    if not isinstance(known, float):
        return
    share = known or 0.1
    attempt = Attempt(13, f"pairs, with label_smoothing = {share}", "the sign or the factor of the smoothed term")
    batch = scene([3, 2, 4, 3], [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], given)
    values: dict[str, Level] = {
        name: noise(batch, 1.5, seed) - 1 for seed, name in enumerate(("logprobs", "ref_logprobs"))
    }
    values["scores"] = torch.tensor([0.3, -1.0, 2.0, 0.1])
    none, some = (dataclasses.replace(optimizer, label_smoothing=each) for each in (0.0, share))  # type: ignore[type-var]
    reverse = dataclasses.replace(batch, rewards=1 - batch.rewards)
    pulls = [pull_of(attempt, part, b, values) for part, b in ((none, batch), (none, reverse), (some, batch))]
    if any(each is None for each in pulls):
        return
    right, wrong, found = (each.on for each in pulls if each is not None)
    for name, pull in found.items():
        attempt.same(f"pull on {name}", (1 - share) * right[name] + share * wrong[name], pull, 1e-2)


MARGINS = ("margin", "target_margin", "gamma")
"""Settings, or columns of the data that a setting names, by which the better answer has to win."""


def margin(optimizer: Optimizer, given: Given) -> None:
    """A larger margin to win by pulls the better answer up over the worse no less anywhere, and more somewhere."""
    if {"values", "old_logprobs"} & optimizer.needs:
        return  # their gamma is a discount
    for name in MARGINS:
        value = _setting(optimizer, name)
        if not isinstance(value, float | str):
            continue
        attempt = Attempt(13, f"pairs from far apart to far the wrong way round, and two values of {name}", "its sign")
        batch = scene([2] * 4, [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], given)
        gaps = [_gaps(attempt, optimizer, batch, name, value, more) for more in (False, True)]
        if gaps[0] is None or gaps[1] is None:
            continue
        gain = gaps[1] - gaps[0]
        attempt.require(
            float(gain.min()) >= -1e-6, "no pull that is less for it", f"one less by {-float(gain.min()):.3g}"
        )
        attempt.require(float(gain.max()) > 1e-6, "some pull that is more for it", "none")
    for name in ("nu", "threshold") if _learns_ties(optimizer, given) else ():
        value = _setting(optimizer, name)
        if not isinstance(value, float):
            continue
        attempt = Attempt(13, f"pairs whose better answer is ahead, and two values of {name}", "its sign")
        batch = scene([2] * 4, [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], given)
        less, more = (_gaps(attempt, optimizer, batch, name, value, each) for each in (False, True))
        if less is not None and more is not None:
            least = float((more - less)[len(less) // 2 :].min())
            attempt.require(least >= -1e-6, "no pull that is less for likelier ties", f"one less by {-least:.3g}")


def _learns_ties(optimizer: Optimizer, given: Given) -> bool:
    """Whether two answers as good pull at each other, so that a setting says how likely ties are."""
    if _setting(optimizer, "nu") is _setting(optimizer, "threshold") is None or not compares(optimizer, given):
        return False
    attempt = Attempt(13, "two answers as good, one likelier than the other", "")
    values: dict[str, Level] = {"logprobs": torch.tensor([-3.0, -5.0]), "ref_logprobs": -4.0}
    values["scores"] = torch.tensor([1.0, -1.0])
    found = pull_of(attempt, optimizer, scene([2, 2], [0, 0], [0.5, 0.5], given), values)
    return found is not None and bool((found.rows(learnt(found.on)).abs() > 1e-9).any())


def _gaps(attempt: Attempt, optimizer: Any, batch: Batch, name: str, value: float | str, more: bool) -> Tensor | None:
    """How much the better of a pair is pulled up over the worse, for pairs that differ ever more."""
    if isinstance(value, str):
        column = torch.full((len(batch),), 0.9 if more else 0.3)
        batch = dataclasses.replace(batch, extra={**batch.extra, value or name: column})
        part = dataclasses.replace(optimizer, **{name: value or name})
    else:
        part = dataclasses.replace(optimizer, **{name: value + 0.4 if more else value})
    found = []
    for gap in torch.linspace(-3, 3, 25).tolist():
        lead = torch.tensor([gap, 0.0, 0.0, gap])
        pull = pull_of(attempt, part, batch, {"logprobs": lead - 4, "scores": lead})
        if pull is None:
            return None
        rows = pull.rows(learnt(pull.on))
        found.append(rows[0] - rows[1])
    return torch.stack(found)


def _setting(optimizer: Any, name: str) -> Any:
    return next((getattr(optimizer, f.name) for f in dataclasses.fields(optimizer) if f.name == name), None)


def length_normalised(optimizer: Optimizer, given: Given) -> None:
    """With `length_normalised` a long answer is pulled less beside a short one than without it."""
    if not isinstance(_setting(optimizer, "length_normalised"), bool):
        return
    attempt = Attempt(13, "a good answer of 8 tokens, then of 2, and a bad one of 4", "the switch turned round")
    shares = []
    for switch in (True, False):
        part: Any = dataclasses.replace(optimizer, length_normalised=switch)  # type: ignore[type-var]
        pulls = []
        for length in (8, 2):
            batch = scene([length, 4], [0, 0], [1.0, 0.0], given)
            found = pull_of(attempt, part, batch, {"logprobs": -1.0, "ref_logprobs": -1.0})
            if found is None or not learnt(found.on):
                return
            pulls.append(float(found.rows(learnt(found.on))[0]))
        if not pulls[1]:
            return
        shares.append(pulls[0] / pulls[1])
    told = f"{shares[0]:.4g} times, and {shares[1]:.4g} times without it"
    attempt.require(shares[0] < shares[1] - 1e-6, "a smaller pull on the long answer, beside the short one", told)


IMITATION = ("nll", "nll_weight")
"""Settings that weigh the imitation of the better answer."""


def nll(optimizer: Optimizer, given: Given) -> None:
    """A larger `nll` raises the better of two answers more, and the worse one no more."""
    if "logprobs" not in optimizer.needs or "old_logprobs" in optimizer.needs:
        return
    batch = scene([3, 3], [0, 0], [1.0, 0.0], given)
    for name in IMITATION:
        value = _setting(optimizer, name)
        if not isinstance(value, float):
            continue
        attempt = Attempt(13, f"a good and a bad answer, and two values of {name}", "the worse answer imitated")
        rows = []
        for weight in (value or 0.1, 2 * (value or 0.1)):
            part: Any = dataclasses.replace(optimizer, **{name: weight})  # type: ignore[type-var]
            found = pull_of(attempt, part, batch, {"logprobs": -1.0, "ref_logprobs": -1.0})
            if found is None:
                return
            rows.append(found.rows())
        better, worse = (rows[1] - rows[0]).tolist()
        holds = better > 1e-9 and worse <= 1e-9
        attempt.require(holds, "the better answer raised for it, alone", f"by {better:.3g}, the worse by {worse:.3g}")


def sampled(optimizer: Optimizer, given: Given) -> None:
    """The likelier the sampler has found an answer, beside the policy, the less it weighs, where that is weighed."""
    cause = "the importance weight of the sampler over the policy: it is the policy over the sampler"
    attempt = Attempt(13, "good and bad answers, one of which the sampler found likelier, or less so", cause)
    batch = scene([3] * 4, [0, 0, 1, 1], [1.0, 0.0, 1.0, 0.0], given)
    values: dict[str, Level] = {"logprobs": -1.0, "old_logprobs": -1.0, "ref_logprobs": -1.0}
    pulls = []
    for more in (-0.3, 0.0, 0.3):
        said = torch.full(batch.mask.shape, -1.0)
        said[0] += more
        extra = {**batch.extra, "sampled_logprobs": said * batch.mask}
        found = pull_of(attempt, optimizer, dataclasses.replace(batch, extra=extra), values)
        if found is None or not learnt(found.on):
            return
        pulls.append(float(found.rows(learnt(found.on))[0]))
    holds = pulls[0] >= pulls[1] - 1e-7 and pulls[1] >= pulls[2] - 1e-7
    attempt.require(holds, "a pull on the good answer that falls with it, or stays", str(pulls))
