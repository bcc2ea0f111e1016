"""Agreement of verdicts, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from alignzoo.agreement import Estimate, agreement, estimate, kappa, majority, spearman


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
