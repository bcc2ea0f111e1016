"""What an optimizer reads, away from its start: each column that it declares, and of log-probabilities the ratios."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from alignzoo import columns
from alignzoo.interfaces import Optimizer
from alignzoo.testing.laws import Attempt, Given
from alignzoo.testing.optimizers.scene import Level, Pull, Variant, answers, noise, pull_of, runs, scene, variants
from alignzoo.types import Batch


def _away(given: Given) -> tuple[Batch, Batch]:
    """Two groups whose log-probabilities have all moved, without and with a reward for each token."""
    batch = scene([3, 5, 4, 2, 6, 3], [0, 0, 0, 1, 1, 1], [1.0, 0.0, 0.5, 0.0, 2.0, 0.0], given)
    return batch, replace(batch, token_rewards=noise(batch, 0.3, 9) * batch.mask)


def _moved(optimizer: Optimizer, batch: Batch, spread: float = 0.3) -> dict[str, Level]:
    """Every column at random, each by itself; within a trust region where `spread` is small."""
    levels = answers(columns.filled(optimizer.needs) | columns.trained(optimizer.needs), batch, {})
    return {
        name: level + (noise(batch, spread, seed) if level.ndim == 2 else noise(batch, spread, seed)[:, 0])
        for seed, (name, level) in enumerate(levels.items())
    }


def _effects(found: Pull) -> dict[str, Tensor]:
    """Everything by which a column can show: what pulls, and what `prepare` left."""
    kept = {n: c for n in ("advantages", "returns", "weights") if (c := getattr(found.prepared, n)) is not None}
    return {**found.on, **kept, "rows": found.origin.float()}


def columns_read(optimizer: Optimizer, given: Given) -> None:
    """Each column in `needs` changes the gradient, the credit or the choice of rows, in some company."""
    cause = "a ratio or a KL against another column than the one meant, or a term whose gradient does not depend on it"
    attempt = Attempt(13, "two ragged groups, all columns at random", cause)
    unread: dict[str, str] = {}
    read: set[str] = set()
    for variant in variants(optimizer):
        for batch in _away(given):
            if not runs(variant, attempt, batch):
                continue
            for name in sorted(variant.part.needs - read):
                if _is_read(attempt, variant, batch, name):
                    read.add(name)
                else:
                    unread.setdefault(name, variant.what)
    for name in sorted(unread.keys() - read):
        where = Variant(optimizer, unread[name]).of(attempt)
        where.fail(f"{name}, which is in needs, to change something", "the same gradient and credit, whatever it says")


def _is_read(attempt: Attempt, variant: Variant, batch: Batch, name: str) -> bool:
    values = _moved(variant.part, batch)
    level = torch.as_tensor(values[name])
    other = level + (noise(batch, 0.5, 77) if level.ndim == 2 else noise(batch, 0.5, 77)[:, 0])
    one = pull_of(attempt, variant.part, batch, values)
    two = pull_of(attempt, variant.part, batch, {**values, name: other})
    if one is None or two is None:
        return (one is None) != (two is None)
    first, second = _effects(one), _effects(two)
    if columns.column(name).trained and bool(one.on[name].any()):
        return True  # a constant pull, as that of SFT, is one
    return any(n not in second or not _equal(column, second[n]) for n, column in first.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def ratios(optimizer: Optimizer, given: Given) -> None:
    """Only ratios of log-probabilities count: all roles' shifted alike, token by token, change no gradient."""
    cause = "a column of another role forgotten, taken twice, or with the wrong sign, in one of the terms"
    attempt = Attempt(13, "two ragged groups, moved; then every role's log-probabilities shifted alike", cause)
    batch = _away(given)[0]
    for variant in variants(optimizer):
        names = [n for n in variant.part.needs if columns.column(n).answer.name == "logprobs"]
        if "logprobs" not in names or len(names) < 2 or not runs(variant, attempt, batch):
            continue
        values = _moved(variant.part, batch)
        shift = noise(batch, 0.4, 33)
        shifted = {n: torch.as_tensor(v) + shift if n in names else v for n, v in values.items()}
        at = variant.of(attempt)
        before, after = pull_of(at, variant.part, batch, values), pull_of(at, variant.part, batch, shifted)
        if before is None or after is None:
            continue
        for name, expected in before.on.items():
            away = float((expected - after.on[name]).abs().max())
            size = float(expected.abs().max())
            found = f"it moves by {away:.3g}, where it is at most {size:.3g}"
            at.require(away <= 1e-4 * max(size, 1e-2), f"the same gradient in {name}", found)


def holes(optimizer: Optimizer, given: Given) -> None:
    """A token between an answer's own that is not trained on, as a tool's is, changes no pull on those."""
    cause = "a length, or a token's place, counted in columns: count what the mask says"
    attempt = Attempt(2, "two groups, then with a token of somebody else's after the first one of each answer", cause)
    lengths, kept = [3, 4, 3, 4], torch.tensor([0, 1, 3, 4, 5])
    batch, wide = (scene([n + more for n in lengths], [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0], given) for more in (0, 1))
    if batch.roles:
        return
    mask = wide.mask.clone()
    mask[:, 2] = False
    wide = replace(wide, mask=mask, own=mask)
    names = ("logprobs", "old_logprobs", "ref_logprobs", "old_values", "values")
    close = {n: noise(batch, 0.1, seed) - float(n.endswith("logprobs")) for seed, n in enumerate(names)}
    apart = {n: torch.zeros(mask.shape).index_copy(1, kept, column) for n, column in close.items()}
    for variant in variants(optimizer):
        if not runs(variant, attempt, batch):
            continue
        at = variant.of(attempt)
        one, two = pull_of(at, variant.part, batch, close), pull_of(at, variant.part, wide, apart)
        if one is None or two is None:
            continue
        for name, pull in one.on.items():
            found = two.on[name]
            at.same(f"pull on {name}", pull, found[:, kept] if found.ndim == 2 else found, 1e-2)
