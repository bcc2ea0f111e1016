"""What an optimizer is made of: its fields, its needs, the shapes of its loss and of its metrics."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from torch import Tensor

from alignzoo.errors import PluginError
from alignzoo.interfaces import Optimizer
from alignzoo.registry.registrar import check_part
from alignzoo.testing.laws import Attempt, Given, is_a_spec
from alignzoo.testing.measure import answer, loss, objective, ragged
from alignzoo.testing.optimizers.scene import without_weights
from alignzoo.types import Terms

SHARED = (
    *("reward/*", "kl", "kl/*", "kl_*", "entropy", "entropy/*", "length", "finished", "completions", "rows"),
    *("tokens/*", "groups/*", "seconds/*", "memory", "grad_norm", "lr", "loss"),
)
"""The metrics that the runner computes, the same for every optimizer."""

NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9_]+)*")
"""How a metric may be called."""

ONE_NAME = {
    "clip_fraction": ("clipfrac", "clip_frac", "clipped", "clip_ratio", "clip_fractions"),
    "approx_kl": ("approxkl", "kl_old", "old_kl"),
    "accuracy": ("acc", "preference_accuracy", "accuracies"),
    "margin": ("margins", "reward_margin", "reward_margins"),
    "loss/policy": ("policy_loss", "pg_loss", "loss_policy", "actor_loss"),
    "loss/value": ("value_loss", "vf_loss", "loss_value", "critic_loss"),
    "loss/entropy": ("entropy_loss", "loss_entropy"),
    "loss/kl": ("kl_loss", "loss_kl"),
}
"""What several methods measure has one name, so that their curves can lie over one another."""

SHARES = ("clip_fraction", "accuracy")
"""Metrics between 0 and 1."""


def contract(optimizer: Optimizer, given: Given) -> None:
    """A frozen dataclass that can be pickled and replaced; known `needs` and traits."""
    is_a_spec(optimizer)
    attempt = Attempt(3, repr(optimizer), "a default that makes no pass")
    attempt.require(optimizer.epochs >= 1, "epochs of at least 1", str(optimizer.epochs))
    attempt = Attempt(2, f"needs = {sorted(optimizer.needs)}", "a misspelt name")
    try:
        check_part("optimizer", type(optimizer).__name__, optimizer)
    except PluginError as error:
        attempt.require(False, "columns and traits that there are", str(error))


def needs(optimizer: Optimizer, given: Given) -> None:
    """`prepare` and `loss` run when every column that is not in `needs` is None, whatever the settings."""
    cause = "a column is read that `needs` does not name: add it there, or do without it"
    for variant in without_weights(optimizer):
        part = variant.part
        columns = f"ragged groups with the columns {', '.join(sorted(part.needs))}, no others"
        attempt = variant.of(Attempt(2, columns, cause))
        for made, prepared in ragged(part, given, attempt):
            loss(attempt, part, prepared, answer(part, made.policy, prepared))


def reduction(optimizer: Optimizer, given: Given) -> None:
    """The loss is one number per row or per token, and `weights` fit it."""
    cause = "loss() reduces by itself: return what each row or token costs, and set weights in prepare()"
    attempt = Attempt(1, "ragged groups", cause)
    for made, prepared in ragged(optimizer, given, attempt):
        terms = loss(attempt, optimizer, prepared, answer(optimizer, made.policy, prepared))
        attempt.require(isinstance(terms, Terms), "loss() returns Terms", type(terms).__name__)
        n, shape = len(prepared), tuple(prepared.tokens.shape)
        found = tuple(terms.loss.shape)
        attempt.require(found in ((n,), shape), f"a loss of shape {(n,)} or {shape}", str(found))
        objective(attempt, optimizer, made.policy, [prepared], n)


def metrics(optimizer: Optimizer, given: Given) -> None:
    """Metrics are finite, per row or per token, under names of their own."""
    cause = "a metric reduced in loss(), or called by a name that the runner computes for every optimizer"
    attempt = Attempt(8, "ragged groups", cause)
    for made, prepared in ragged(optimizer, given, attempt):
        terms = loss(attempt, optimizer, prepared, answer(optimizer, made.policy, prepared))
        for name, values in terms.metrics.items():
            _named(attempt, name)
            row, token = (len(prepared),), tuple(prepared.tokens.shape)
            found = tuple(values.shape)
            attempt.require(found in (row, token), f"{name} of shape {row} or {token}", str(found))
            attempt.finite(f"metric {name}", values)
            if name in SHARES:
                inside = bool(((values >= 0) & (values <= 1)).all())
                attempt.require(inside, f"{name} between 0 and 1", f"{_range(values)}")


def _named(attempt: Attempt, name: str) -> None:
    """Raise unless a metric's name is free, well formed, and the one that others have for it."""
    taken = any(fnmatch(name, pattern) for pattern in SHARED)
    attempt.require(not taken, f"names other than {', '.join(SHARED)}", repr(name))
    attempt.require(bool(NAME.fullmatch(name)), "a name like clip_fraction or loss/policy", repr(name))
    usual = next((usual for usual, others in ONE_NAME.items() if name in others), name)
    attempt.require(usual == name, f"the name {usual!r}, under which others have it", repr(name))


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"
