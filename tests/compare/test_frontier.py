"""Gao et al.'s forms recovered from points that follow them, turning points by hand, and the Pareto frontier."""

from __future__ import annotations

import math

import pytest

from alignzoo.compare.frontier import Fit, fit, pareto

KL = (0.25, 1.0, 4.0, 9.0, 16.0)  # d = 0.5, 1, 2, 3, 4


def runs(form: str, alpha: float, beta: float, start: float = 1.0, n: int = 3) -> list[list[tuple[float, float]]]:
    curve = Fit(form, start, alpha, beta, 0.0, 4.0)  # type: ignore[arg-type]
    return [[(kl, curve.at(math.sqrt(kl))) for kl in KL] for _ in range(n)]


@pytest.mark.parametrize(("form", "turn"), [("linear", 2.0), ("log", math.e)])
def test_a_curve_of_either_form_is_known_again(form: str, turn: float) -> None:
    # d(2 - d/2) is best at 2/(2·½) = 2; d(2 - log d) where 2 - log d - 1 = 0, at d = e
    found = fit(runs(form, 2.0, 0.5 if form == "linear" else 1.0), 1.0)
    assert found is not None
    assert found.form == form
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.turn == pytest.approx(turn)
    assert (found.low, found.high) == (pytest.approx(turn), pytest.approx(turn))
    assert found.turns


def test_the_forms_by_hand() -> None:
    assert Fit("linear", 1.0, 2.0, 0.5, 0, 4).at(3.0) == pytest.approx(1 + 3 * (2 - 1.5))
    assert Fit("log", 1.0, 2.0, 1.0, 0, 4).at(math.e) == pytest.approx(1 + math.e)
    assert Fit("log", 1.0, 2.0, 1.0, 0, 4).at(0.0) == 1.0


def test_what_does_not_turn() -> None:
    rising = fit(runs("linear", 1.0, 0.05), 1.0)  # it would turn at d = 10, and the furthest run is at 4
    assert rising is not None and rising.turn == pytest.approx(10.0) and not rising.turns
    assert math.isinf(rising.high)
    straight = Fit("log", 0.0, 1.0, 1e-4, 0, 4)  # exp(9,999) is no number
    assert straight.turn == math.inf and not straight.turns
    noisy = Fit("linear", 0.0, 2.0, 0.5, 5.0, 4)  # from 2 at d = 2 to 0 at d = 4, within an error of 5
    assert noisy.turn == pytest.approx(2.0) and not noisy.turns
    assert not Fit("linear", 0.0, 2.0, 0.5, 0.1, 4, low=1.0, high=math.inf).turns
    assert Fit("linear", 0.0, 2.0, 0.5, 0.1, 4, low=1.0, high=3.0).turns
    assert math.isinf(Fit("linear", 0.0, 1.0, -0.1, 0, 4).turn)
    assert math.isinf(Fit("log", 0.0, 1.0, -0.1, 0, 4).turn)
    assert Fit("linear", 0.0, -1.0, 0.1, 0, 4).turn == 0.0  # it only falls


def test_the_interval_is_over_runs() -> None:
    apart = [*runs("linear", 2.0, 0.5, n=2), *runs("linear", 3.0, 0.5, n=2)]  # turning at 2 and at 3
    found = fit(apart, 1.0, seed=1)
    assert found is not None
    assert found.low == pytest.approx(2.0) and found.high == pytest.approx(3.0)
    assert found.low < found.turn < found.high
    assert fit(apart, 1.0, seed=1) == found
    alone = fit(apart[:1], 1.0)
    assert alone is not None and math.isnan(alone.low)


def test_no_turning_point_is_read_into_ends_alone() -> None:
    ends = [[(5.0, 0.23)], [(5.6, 0.20)], [(6.2, 0.16)]]  # d = 2.2 to 2.5, and nothing on the way from 0
    found = fit(ends, 0.0)
    assert found is not None and found.turn < found.nearest == math.sqrt(5.0)
    assert not found.turns and math.isinf(found.high)  # most resamples have no three different points
    assert not Fit("linear", 0.0, 2.0, 0.5, 0.1, 4, nearest=2.5, low=1.9, high=2.1).turns
    assert Fit("linear", 0.0, 2.0, 0.5, 0.1, 4, nearest=1.5, low=1.9, high=2.1).turns
    assert Fit("linear", 0.0, -1.0, 0.1, 0.0, 4, nearest=1.5, low=0.0, high=0.0).turns  # it falls from the start on


def test_too_few_points() -> None:
    assert fit([], 0.0) is None
    assert fit([[(0.0, 1.0), (1.0, 2.0), (4.0, 1.0)]], 0.0) is None  # the start says nothing of the curve


def test_the_pareto_frontier() -> None:
    #          best by far, dominated by 0, less KL and less gold, equal KL and less gold
    points = [(1.0, 3.0), (2.0, 2.5), (0.5, 1.0), (1.0, 2.0), (4.0, 3.5)]
    assert pareto(points) == [2, 0, 4]
    assert pareto([]) == []
