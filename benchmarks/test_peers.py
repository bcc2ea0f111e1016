"""Whole steps beside TRL's: same weights, texts, lengths and precision, results compared before the clock starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peers
import pytest
from comparison import CASES, STEPS, Case, measure


@pytest.mark.parametrize(("method", "size", "lengths"), [(c.method, c.size, c.lengths) for c in CASES])
def test_step(method: str, size: str, lengths: str, benchmark: Any, record: Any, full: bool) -> None:
    reason = peers.missing(method)
    if reason:
        pytest.skip(reason)
    case = Case(method, size, lengths)

    def repeat(turn: Callable[[], object]) -> None:
        benchmark.pedantic(turn, rounds=STEPS, iterations=1)

    row = measure(case, repeat, full=full)
    record.add("peers", case.key, row)
    benchmark.extra_info.update(row)
