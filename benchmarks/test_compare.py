"""What a comparison adds to its cells' own work: a process each; the analysis, the tables and the report at the end.

On cells of milliseconds (the toy policy of the tests), so that next to nothing else is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.compare.executors import Local
from alignzoo.compare.plan import read_cell

PLUGIN = Path(__file__).parents[1] / "tests" / "compare" / "toy_plugin.py"
SMALL = ("policy=toy", "schedule.steps=4", "schedule.prompts=4", "schedule.lr=0.05", "sampler.n=4")

Again = Callable[[], alignzoo.compare.Results]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Again]:
    """A comparison whose 15 cells are finished, and what analyses it again."""
    folder = tmp_path_factory.mktemp("compare")

    def again() -> alignzoo.compare.Results:
        return alignzoo.compare(
            "climb",
            "climb[optimizer.rate=3.0]",
            task="numbers",
            prompts=32,
            overrides=SMALL,
            plugins=[PLUGIN],
            out=folder,
        )

    again()
    return folder, again


@pytest.mark.benchmark(group="compare: 15 finished cells, analysed and reported")
def test_analysis(finished: tuple[Path, Again], benchmark: Any) -> None:
    results = benchmark.pedantic(finished[1], rounds=3)
    assert len(results.cells) == 15
    benchmark.extra_info["seconds per cell"] = benchmark.stats.stats.mean / 15


@pytest.mark.benchmark(group="compare: a process that imports all and forks 15, which find their cells finished")
def test_a_process_for_each_cell(finished: tuple[Path, Again], benchmark: Any) -> None:
    folder = finished[0] / "cells"
    cells = [read_cell(path.parent) for path in sorted(folder.rglob("plan.json"))]

    def start_and_end() -> None:
        assert not any(ended.error for ended in Local().run(cells, folder))

    benchmark.pedantic(start_and_end, rounds=3)
    benchmark.extra_info["seconds per cell"] = benchmark.stats.stats.mean / len(cells)
