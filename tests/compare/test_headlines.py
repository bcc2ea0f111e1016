"""What is said of made-up comparisons, in words."""

from __future__ import annotations

from typing import Any

from alignzoo.compare.headlines import headlines
from alignzoo.compare.results import CellResult, Compared, Pair, Results

ROLES = {"start": "start", "random": "random", "a": "algorithm", "b": "algorithm", "c": "algorithm"}


OK = CellResult("t/a/0", "a", "t", 0, "algorithm", (), "ok")


def pair(a: str, b: str, difference: float, p_holm: float, family: Any = "algorithms") -> Pair:
    low, high = difference - 0.2, difference + 0.2
    return Pair("t", a, b, "gold", difference, low, high, 0.5 * p_holm, p_holm, family, 0.9, 0.25, 3, 64)


def said(*pairs: Pair, cells: tuple[CellResult, ...] = (OK,), budget: dict[str, float] | None = None) -> list[str]:
    made: dict[str, Any] = dict.fromkeys(Results.__dataclass_fields__, ())
    made |= {
        "settings": {"budget": budget, "tasks": ["t"]},
        "algorithms": tuple(Compared(label, label, "", role, "", trials=0) for label, role in ROLES.items()),  # type: ignore[arg-type]
        "metric": {"t": "gold"},
        "pairs": pairs,
        "cells": cells,
    }
    return [headline.text for headline in headlines(Results(**made))]


def test_who_beats_whom_by_how_much_at_what_terms() -> None:
    assert said(pair("a", "b", -0.5, 0.01), budget={"tokens": 1e4}) == [
        "b beats a on t by 0.50 [0.30, 0.70] gold at equal tokens."
    ]
    assert said(pair("a", "b", 0.5, 0.01)) == ["a beats b on t by 0.50 [0.30, 0.70] gold at their recipes' own steps."]


def test_what_the_data_do_not_show() -> None:
    found = "a true difference of 0.25 would have been found in 80 % of such comparisons, before correction."
    assert said(pair("a", "b", -0.1, 0.3)) == [
        f"On t, at n = 3, no significant difference between b and a (0.10 [-0.10, 0.30] gold); {found}"
    ]
    both = "between b and c (0.20 [0.00, 0.40] gold), nor between a and b (0.10 [-0.10, 0.30] gold)"
    assert said(pair("a", "b", 0.1, 0.3), pair("b", "c", 0.2, 0.2)) == [
        f"On t, at n = 3, corrected for the number of pairs, no significant difference {both}; {found}"
    ]

    many = said(*(pair("a", "b", 0.1 * i, 0.3) for i in range(1, 6)))
    assert "between a and b (0.50" in many[0] and "(0.40" in many[0] and ", nor in 3 other pairs; a true" in many[0]
    assert "(0.30" not in many[0]


def test_against_controls() -> None:
    controls = [
        pair("a", "start", 0.9, 0.01, "controls"),
        pair("b", "start", -0.9, 0.01, "controls"),
        pair("start", "c", 0.1, 0.5, "controls"),
        pair("start", "random", 0.3, 0.01, "controls"),
        pair("a", "random", 0.9, 0.01, "controls"),
        pair("b", "random", 0.9, 0.01, "controls"),
    ]
    assert said(*controls) == [
        "Against start on t: a is better; b is worse; no difference is shown for c.",
        "Against random on t: a and b are better.",
        "Training on a reward that says nothing lost 0.30 [0.10, 0.50] gold on t.",
    ]


def test_runs_that_failed() -> None:
    failed = CellResult("t/a/1", "a", "t", 1, "algorithm", (), "diverged")
    assert said(cells=(OK, failed)) == ["1 of 2 runs of a on t diverged; its figures are of the others."]
