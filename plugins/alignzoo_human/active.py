"""What to ask people next: where an answer teaches a reward model most, with a share at random so that estimates hold.

Each item is drawn from those that are left with a known probability, its propensity, which is kept with it; weights
made of these keep a mean over asked items an unbiased estimate of the mean over all, whatever chose them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignzoo import RecipeError
from alignzoo import functional as fn

LEAST_RANDOM = 0.2
"""The share of questions that is drawn at random at least."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """An item to ask about, and how it was drawn."""

    place: int
    """Which of all items it is."""
    propensity: float
    """How probable it was that this one, of those left, was drawn next; above 0 for each of them."""
    left: int
    """How many items were left to draw from, this one among them."""
    how: str
    """"random", or "active" where its score chose it."""


# --- what an answer is worth: (items,), the higher the sooner to be asked ------------------------------------------


def uncertainty(p: Floats) -> Floats:
    """1 - 2·|p - ½|: how unsure a reward model is which answer is better, from its probability for the first one.

    Lewis and Gale 1994, uncertainty sampling.
    """
    return 1 - 2 * np.abs(np.asarray(p) - 0.5)


def disagreement(p: Floats) -> Floats:
    """The standard deviation over the probabilities (models, items) of an ensemble, or of one model's seeds."""
    spread: Floats = np.asarray(p).std(0)
    return spread


def information_gain(p: Floats) -> Floats:
    """The value of asking: how many nats an answer is expected to tell of the reward model, from (models, items).

    H(mean p) - mean H(p), the mutual information of answer and model: Houlsby et al. 2011 (arXiv:1112.5745) eq. 2. It
    is 0 where every model is unsure in the same way, as of a question on which people would toss a coin.
    """
    p = np.asarray(p)
    gain: Floats = _entropy(p.mean(0)) - _entropy(p).mean(0)
    return gain


# --- drawing ------------------------------------------------------------------------------------------------------


def choose(
    scores: Sequence[float] | Floats,
    n: int,
    *,
    seed: int,
    random: float = LEAST_RANDOM,
    asked: Sequence[int] = (),
) -> list[Drawn]:
    """Draw the next n items: each at random with probability `random`, else that with the highest score of those left.

    An item's propensity is therefore random/left, and 1 - random more for the one with the highest score. `asked` are
    the places that were drawn before. Of equal scores one is drawn by the seed, the same for the whole call.
    """
    if not LEAST_RANDOM <= random <= 1:
        raise RecipeError(
            f"random must be from {LEAST_RANDOM} to 1, found {random}: with less chosen at random, what is learnt of "
            "all items from those that were asked becomes too uncertain to be of use"
        )
    rng = np.random.default_rng(fn.derive(seed, "choose"))
    scores = np.asarray(scores, dtype=float)
    if np.isnan(scores).any():
        raise RecipeError(
            f"item {int(np.isnan(scores).argmax())} has no score (NaN): give every item one, 0 if need be"
        )
    known = set(asked)
    order = [int(i) for i in np.lexsort((rng.random(len(scores)), -scores)) if int(i) not in known]  # best first
    drawn: list[Drawn] = []
    for _ in range(min(n, len(order))):
        left, lucky = len(order), bool(rng.random() < random)
        rank = int(rng.integers(left)) if lucky else 0
        propensity = random / left + (1 - random) * (rank == 0)
        drawn.append(Drawn(order.pop(rank), propensity, left, "random" if lucky else "active"))
    return drawn


def at_random(n_items: int, n: int, *, seed: int, asked: Sequence[int] = ()) -> list[Drawn]:
    """Draw the next n items at random alone."""
    return choose(np.zeros(n_items), n, seed=seed, random=1.0, asked=asked)


# --- estimating ---------------------------------------------------------------------------------------------------


def weights(drawn: Sequence[Drawn]) -> Floats:
    """What each drawn item counts, so that the mean of weight·value is unbiased for the mean over all N items.

    v_m = 1 + (N - M)/(N - m)·(1/((N - m + 1)·q_m) - 1) for the m-th of M draws with propensity q_m, all in the order
    that they were drawn in and without a gap. Farquhar, Gal and Rainforth 2021 (arXiv:2101.11665) eq. 7, R_LURE: each
    draw may depend on all answers before it. Drawn at random alone, every weight is 1.
    """
    n_all, n_drawn = (drawn[0].left, len(drawn)) if drawn else (0, 0)
    for m, each in enumerate(drawn, 1):
        if each.left != n_all - m + 1:
            raise ValueError(f"draw {m} had {each.left} items left, expected {n_all - m + 1}: give all draws, in order")
    return np.array(
        [
            1.0 if each.left == 1 else 1 + (n_all - n_drawn) / (each.left - 1) * (1 / (each.left * each.propensity) - 1)
            for each in drawn
        ]
    )


def estimated_mean(values: Sequence[float], drawn: Sequence[Drawn]) -> tuple[float, float]:
    """The mean of a value over all items, from those that were drawn, and its standard error.

    The standard error is that of the weighted values as if they were independent.
    """
    weighted = weights(drawn) * np.asarray(values, dtype=float)
    error = float(weighted.std(ddof=1)) / math.sqrt(len(weighted)) if len(weighted) > 1 else math.nan
    return float(weighted.mean()), error


def _entropy(p: Floats) -> Floats:
    """The entropy of a choice between two, in nats; 0 at both ends."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    entropy: Floats = -p * np.log(p) - (1 - p) * np.log1p(-p)
    return entropy
