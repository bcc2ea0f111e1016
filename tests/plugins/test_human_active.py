"""What to ask next: known probabilities, estimates that stay unbiased, and scores that can be computed by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from alignzoo import RecipeError
from alignzoo_human import active


def test_scores_by_hand() -> None:
    assert active.uncertainty(np.array([0.5, 0.9, 0.1, 1.0])) == pytest.approx([1, 0.2, 0.2, 0])
    models = np.array([[0.5, 0.9, 0.0], [0.5, 0.1, 0.0]])  # two models: both unsure, sure of opposites, both sure
    assert active.disagreement(models) == pytest.approx([0, 0.4, 0])
    sure = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert active.information_gain(models) == pytest.approx([0, math.log(2) - sure, 0], abs=1e-9)
    assert active.uncertainty(models.mean(0))[1] == 1.0  # uncertainty alone cannot tell a coin toss from a dispute


def test_no_item_twice_and_the_best_first() -> None:
    drawn = active.choose([0.1, 0.9, 0.5, 0.7], 10, seed=3, asked=[1])
    assert sorted(each.place for each in drawn) == [0, 2, 3]
    assert [each.left for each in drawn] == [3, 2, 1]
    left = [0, 2, 3]
    for each in drawn:
        if each.how == "active":
            assert each.place == max(left, key=[0.1, 0.9, 0.5, 0.7].__getitem__)
        left.remove(each.place)
    assert active.choose([0.1, 0.9], 1, seed=3) == active.choose([0.1, 0.9], 1, seed=3)


def test_propensities_are_frequencies() -> None:
    # four items, a fifth at random: .2/4 for each, .8 more for the best
    counts = Counter(active.choose([0.3, 0.1, 0.8, 0.2], 1, seed=seed)[0].place for seed in range(4000))
    told = {
        each.place: each.propensity for seed in range(200) for each in active.choose([0.3, 0.1, 0.8, 0.2], 1, seed=seed)
    }
    assert told == pytest.approx({0: 0.05, 1: 0.05, 2: 0.85, 3: 0.05})
    for place, propensity in told.items():
        assert counts[place] / 4000 == pytest.approx(propensity, abs=4 * math.sqrt(propensity / 4000))


@pytest.mark.parametrize("random", [0.2, 0.5, 1.0])
def test_estimates_are_unbiased_whatever_chooses(random: float) -> None:
    """A value that the chooser goes by itself, over two rounds: the worst case for a plain mean."""
    values = np.linspace(0, 1, 30) ** 2
    found, plain = [], []
    for seed in range(1500):
        first = active.choose(values, 5, seed=seed, random=random)
        known = [each.place for each in first]
        scores = values if values[known].mean() > 0.4 else np.zeros(30)  # it depends on what was answered first
        drawn = [*first, *active.choose(scores, 5, seed=seed + 10_000, random=random, asked=known)]
        said = values[[each.place for each in drawn]]
        found.append(active.estimated_mean(said, drawn)[0])
        plain.append(said.mean())
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(values.mean(), abs=4 * error)
    assert error < 0.02
    if random < 1:
        assert abs(np.mean(plain) - values.mean()) > 0.05  # and without weights it would be far off


def test_weights_at_random_are_one_and_of_all_items_are_one() -> None:
    assert active.weights(active.at_random(20, 8, seed=1)) == pytest.approx(np.ones(8))
    everything = active.choose(np.arange(6.0), 6, seed=1)
    assert active.weights(everything) == pytest.approx(np.ones(6))  # all were asked: nothing is left to estimate
    with pytest.raises(ValueError, match="in order"):
        active.weights(everything[1:][::-1])


def test_a_weight_by_hand() -> None:
    # N = 4, M = 1, q = .85: 1 + (3/3)·(1/(4·.85) - 1) = .2941; q = .05: 5
    assert active.weights([active.Drawn(2, 0.85, 4, "active")]) == pytest.approx([1 / 3.4])
    assert active.weights([active.Drawn(0, 0.05, 4, "random")]) == pytest.approx([5.0])


def test_too_little_at_random_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"from 0\.2 to 1, found 0\.1"):
        active.choose([1.0, 2.0], 1, seed=0, random=0.1)
    with pytest.raises(RecipeError, match="item 1 has no score"):
        active.choose([1.0, math.nan], 1, seed=0)
    shares = [each.how for seed in range(300) for each in active.choose(np.arange(20.0), 4, seed=seed)]
    assert shares.count("random") / len(shares) == pytest.approx(0.2, abs=0.05)
