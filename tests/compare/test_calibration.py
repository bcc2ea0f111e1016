"""The short form of benchmarks/calibration.py: how often comparisons of equal algorithms are wrong, where they were."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignzoo.compare import inference, overall
from alignzoo.compare import statistics as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REPS = 300


@pytest.fixture(scope="module")
def calibration() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("calibration")


@pytest.mark.parametrize(
    ("world", "seeds", "algorithms", "tasks"),
    [
        ("accuracy .98", 2, 6, 1),
        ("hard and easy prompts", 3, 6, 3),
        ("normal", 5, 2, 3),
        ("normal", 3, 10, 1),
        ("one noisy algorithm", 3, 6, 1),
        ("log-normal", 5, 2, 1),
    ],
)
def test_equal_algorithms_are_seldom_told_apart_and_intervals_cover(
    calibration: Any, world: str, seeds: int, algorithms: int, tasks: int
) -> None:
    found = calibration.cell(world, seeds, algorithms, tasks, reps=REPS)
    assert found.wrong <= 0.06, found
    assert found.covers >= 0.93 and found.covers_means >= 0.93, found


def test_a_difference_is_found_more_often_than_by_each_pair_alone(calibration: Any) -> None:
    found = calibration.cell("normal", 3, 6, 1, reps=REPS)
    assert found.power > 2 * found.power_formerly > 0, found
    # what was certain by coincidence in three comparisons of four is not
    former = calibration.cell("accuracy .98", 2, 6, 1, reps=REPS)
    assert former.wrong_formerly > 0.6 and former.wrong < 0.02, former


def test_looking_again_with_more_seeds_is_paid_for(calibration: Any) -> None:
    spent, whole = calibration.looking("normal", (2, 3, 4, 5, 6, 7, 8, 9, 10), 2, reps=REPS)
    assert spent <= 0.06 < whole
    levels = [inference.level_of(look) for look in range(1, 10_001)]
    assert sum(levels) == pytest.approx(0.05, rel=1e-3)
    assert inference.looks_of([], 3) == [3] and inference.looks_of([3], 3) == [3]
    assert inference.looks_of([3, 5], 10) == [3, 5, 10] and inference.looks_of([3, 5], 3) == [3]


def test_controls_are_kept_at_the_level_by_their_gates() -> None:
    # three algorithms equal to all controls; then one that beats only the start, which opens the next gate
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(REPS):
        values = 0.1 * rng.normal(size=(5, 3, 1)) + rng.normal(size=(5, 3, 32))
        values[3] -= 3.0  # the start is worse than all
        wrong += _claims(values[:3], [values[3], values[4]], true=[True, False])
    assert wrong <= 0.06 * REPS, wrong


def _claims(values: st.Array, controls: list[st.Array], true: list[bool]) -> bool:
    """Whether an algorithm is told to be better or worse than a control that it equals."""
    chains: list[list[inference.Verdict]] = [[] for _ in values]
    for control in controls:
        estimates = inference.against(values, control, share=False)
        for number, chain in enumerate(chains):
            chain.append(inference.verdict(estimates[number], len(values), 0.05))
    told = [[v.shown and g for v, g in zip(chain, inference.gates(chain), strict=True)] for chain in chains]
    return any(said and not holds for chain in told for said, holds in zip(chain, true, strict=True))


def test_a_gate_is_open_only_for_what_was_better() -> None:
    def verdict(difference: float, shown: bool) -> inference.Verdict:
        return inference.Verdict(difference, 0.0, 1.0, 0.01, 0.02, shown)

    assert list(inference.gates([verdict(1, True), verdict(1, False), verdict(1, True)])) == [True, True, False]
    assert list(inference.gates([verdict(-1, True), verdict(1, True)])) == [True, False]


def test_a_run_that_failed_counts_as_the_worse_of_the_start_and_the_worst_that_ended() -> None:
    start = {0: {1: 0.2, 2: 0.2}, 1: {1: 0.4, 2: 0.6}}
    good, bad = {1: 0.9, 2: 0.7}, {1: 0.1, 2: 0.1}
    assert inference.counted({0: good}, start, [0, 1]) == {0: good, 1: start[1]}
    assert inference.counted({0: bad}, start, [0, 1]) == {0: bad, 1: bad}  # failing never helps
    assert inference.counted({0: good}, {}, [0, 1]) == {0: good, 1: good}
    assert inference.counted({}, start, [0, 1]) == {}


def test_all_tasks_together_take_two_tasks_and_five_runs_of_each_and_cover() -> None:
    def runs(tasks: int, seeds: int, rng: np.random.Generator) -> dict[str, dict[str, st.Array]]:
        return {str(t): {"start": np.zeros(seeds), "a": rng.normal(size=seeds)} for t in range(tasks)}

    rng = np.random.default_rng(1)
    best = {str(task): 1.0 for task in range(9)}
    for tasks, seeds, told in ((1, 10, False), (2, 4, False), (2, 5, True), (5, 2, False)):
        assert bool(overall.rescaled(runs(tasks, seeds, rng), "start", best).strata) == told
    missed = 0
    for _ in range(150):
        strata = [rng.normal(size=5), rng.normal(size=5)]
        draws = st.stratified_bootstrap(strata, st.pooled_iqm, rng=rng, reps=500)
        low, high = st.percentiles(draws, st.widened(strata))
        missed += not low <= 0 <= high
    assert missed <= 0.05 * 150 + 3.2 * (150 * 0.05 * 0.95) ** 0.5, missed
    # the known best is 1, whoever competes: half-way is 0.5
    scale = overall.rescaled(
        {t: {"start": np.zeros(5), "a": np.full(5, 2.25)} for t in "xy"}, "start", {"x": 4.5, "y": 4.5}
    )
    assert scale.strata["a"][0] == pytest.approx([0.5] * 5)
    (improved, _) = overall.improvements(
        overall.rescaled({t: {"start": np.zeros(5), "a": np.ones(5)} for t in "xy"}, "start", {})
    )
    assert improved.probability == 0.0 and improved.high == pytest.approx(st.unseen(10))  # no certainty of ten runs
