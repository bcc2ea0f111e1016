"""Agreement of verdicts, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from alignzoo.judging.agreement import (
    Estimate,
    Level,
    agreement,
    binomial,
    estimate,
    kappa,
    krippendorff,
    majority,
    spearman,
)


def verdicts(text: str) -> np.ndarray:
    return np.array([int(each) for each in text], dtype=np.int64)


A = verdicts("1112221120")
B = verdicts("1121222110")
"""Ten pairs: both say 1, 1, -, -, 2, 2, -, 1, -, 0."""


def test_kappa_on_ten_pairs() -> None:
    # equal at places 1, 2, 5, 6, 8, 10: 6 of 10. A says 1 five times, 2 four, 0 once; so does B: .25 + .16 + .01 = .42
    assert agreement(A, B) == pytest.approx(0.6)
    assert kappa(A, B) == pytest.approx((0.6 - 0.42) / (1 - 0.42))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("1122", "1122", 1.0),
        ("1122", "2211", -1.0),  # (0 - .5) / (1 - .5)
        ("1122", "1212", 0.0),  # (.5 - .5) / (1 - .5)
        ("1111", "1122", 0.0),  # (.5 - .5) / (1 - .5): one who always says the same
        ("1111", "1111", 0.0),  # undefined: nothing beyond chance is shown
    ],
)
def test_kappa_at_its_ends(a: str, b: str, expected: float) -> None:
    assert kappa(verdicts(a), verdicts(b)) == pytest.approx(expected)


def test_spearman() -> None:
    def of(*pairs: tuple[float, float]) -> float:
        a, b = np.array(pairs, dtype=float).T
        return spearman(a, b)

    assert of((1, 10), (2, 100), (3, 1000)) == pytest.approx(1.0)
    assert of((1, 3), (2, 2), (3, 1)) == pytest.approx(-1.0)
    # ranks 0, 1, 2, 3 and, the tie shared, 0, 1.5, 1.5, 3: deviations (-1.5, -.5, .5, 1.5) and (-1.5, 0, 0, 1.5)
    assert of((1, 5), (2, 7), (3, 7), (4, 9)) == pytest.approx(4.5 / (5 * 4.5) ** 0.5)
    assert of((1, 5), (2, 5), (3, 5)) == 0.0


def test_majorities() -> None:
    assert majority([1, 1, 2]) == 1
    assert majority([0, 0, 2]) == 0
    assert majority([0, 1, 2]) is None
    assert majority([1, 2]) is None
    assert majority([2]) == 2


def test_the_interval_is_that_of_the_mean() -> None:
    column = np.array([1.0] * 50 + [0.0] * 50)

    def found(seed: int) -> Estimate:
        return estimate(lambda rows: float(column[rows].mean()), 100, np.random.default_rng(seed), resamples=2000)

    # the standard error is .05, so the interval about .5 ± 1.96·.05
    assert found(0).value == 0.5 and found(0).n == 100
    assert found(0).low == pytest.approx(0.402, abs=0.015)
    assert found(0).high == pytest.approx(0.598, abs=0.015)
    assert found(0) == found(0)
    steady = estimate(lambda rows: 1.0, 7, np.random.default_rng(0), resamples=10)
    assert steady == Estimate(1.0, 1.0, 1.0, 7)


NONE = float("nan")
FOUR = np.array(  # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D: 4 observers, 12 units
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
)
SCALE = np.arange(1.0, 6.0)


def counted(ratings: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.array([[float((unit == value).sum()) for value in values] for unit in ratings.T])


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_a_published_example(level: Level, published: float) -> None:
    assert krippendorff(counted(FOUR, SCALE), SCALE, level) == pytest.approx(published, abs=5e-4)


def coincidences(ratings: np.ndarray, level: Level) -> float:
    """Alpha as its definition has it: all ordered pairs, one by one."""
    units = [[x for x in unit if not np.isnan(x)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    everything = [x for unit in units for x in unit]

    def apart(c: float, k: float) -> float:
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return (c - k) ** 2
        low, high = min(c, k), max(c, k)
        return (sum(low <= x <= high for x in everything) - (everything.count(c) + everything.count(k)) / 2) ** 2

    n = len(everything)
    within = sum(sum(apart(c, k) for c in unit for k in unit) / (len(unit) - 1) for unit in units) / n
    return 1 - within / (sum(apart(c, k) for c in everything for k in everything) / (n * (n - 1)))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_its_definition(level: Level, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = np.where(rng.random((4, 15)) < 0.3, NONE, rng.choice([0.0, 0.5, 2.0, 7.0], size=(4, 15)))
    values = np.array([0.0, 0.5, 2.0, 7.0])
    found = krippendorff(counted(ratings, values), values, level)
    assert found == pytest.approx(coincidences(ratings, level))
    # a weight is a unit that is there as often, as in a bootstrap
    weights = rng.integers(0, 3, size=15)
    again = krippendorff(counted(ratings, values), values, level, weights.astype(float))
    assert again == pytest.approx(coincidences(np.repeat(ratings, weights, axis=1), level))


def test_alpha_is_undefined_without_variation_or_second_ratings() -> None:
    assert np.isnan(krippendorff(np.array([[2.0, 0], [3, 0]]), np.array([0.0, 1]), "nominal"))
    assert np.isnan(krippendorff(np.array([[1.0, 0], [0, 1]]), np.array([0.0, 1]), "interval"))


@pytest.mark.parametrize(
    ("hits", "low", "high"),
    [(0, 0.0, 0.3085), (3, 0.0667, 0.6525), (10, 0.6915, 1.0)],  # Clopper-Pearson for 10 trials, as tables have it
)
def test_binomial_interval(hits: int, low: float, high: float) -> None:
    found = binomial(hits, 10)
    assert (found.value, found.n) == (hits / 10, 10)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
