"""Errors for the person who wrote the recipe: what is wrong, what was found, what to do.

AlignzooError
├── RecipeError     a recipe, an override, or a part's field
├── DataError       a data file or its rows
│   └── MissingColumn   a column of a batch that nobody has brought
├── PluginError     a plugin that failed to load, registered nonsense, or took a taken name
├── ModelError      a model directory, a tokenizer, a device
│   └── NoScorer        a model without a head that scores
├── RewardError     a reward that raised, or whose answer cannot be used
└── RunError        a run that cannot start, go on, or be resumed
    └── DivergedError   a run whose loss, gradient or figures are no longer finite
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlignzooError(Exception):
    """Printed without a traceback by the command line; exit status 1."""


class RecipeError(AlignzooError):
    """A recipe, an override, or a part's field is wrong."""


class DataError(AlignzooError):
    """A data file cannot be read, or a row has the wrong shape."""


class MissingColumn(DataError, KeyError):
    """A column is read of a batch that nobody has brought."""

    def __str__(self) -> str:
        return str(self.args[0])


class PluginError(AlignzooError):
    """A plugin failed to load, registered nonsense, or took a taken name."""


class ModelError(AlignzooError):
    """A model directory, a tokenizer or a device cannot be used."""


class NoScorer(ModelError):
    """A model has no head that scores: it is a language model, say."""


class RewardError(AlignzooError):
    """A reward raised, or answered something that is not one score per completion."""


class RunError(AlignzooError):
    """A run cannot start, go on, or be resumed."""


class DivergedError(RunError):
    """A run's loss, its gradient or what it learnt is no longer finite."""


def in_words(error: BaseException) -> str:
    """What an error says; one that is not alignzoo's own with its class before."""
    return str(error) if isinstance(error, AlignzooError) else f"{type(error).__name__}: {error}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known ones, those of the same letters first, or all of them."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=12, cutoff=0.6)
    close = sorted(nearest, key=lambda each: sorted(each) != sorted(name))[:3]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}? Known: {', '.join(known)}."
    return f"Known: {', '.join(known) or 'none'}."
