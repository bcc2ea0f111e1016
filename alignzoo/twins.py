"""Reference implementations: whose loss an optimizer's equals, so that `alignzoo check --oracle` can compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Twin:
    """What the optional method `oracle` of an optimizer answers: who else computes this loss, with which settings."""

    package: str
    """The package that has to be installed: "trl"."""
    loss: str
    """MODULE:FUNCTION, imported only where it is asked: `(batch, logprobs, **settings) -> Tensor`, the loss of the
    prepared batch whose rows the policy gives these log-probabilities, (N, T)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, in its own words, that are the optimizer's."""
    rows: Literal["pairs", "groups", "labels"] = "pairs"
    """What it is compared on: pairs of answers, groups of scored ones, or single ones that are good or bad."""
    alike: bool = False
    """Whether the better answers have to be equally long, since the twin takes a mean over all of their tokens."""
