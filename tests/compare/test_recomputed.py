"""Every number and sentence of a small comparison is found again from its raw files, by a script that knows alignzoo's
formulas from the docs alone; and what the inference does with runs that failed, with looks and with tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignzoo.compare.analysis import analyse
from alignzoo.compare.answers import figures
from alignzoo.compare.cell import registry_of
from alignzoo.compare.grid import Grid
from alignzoo.compare.plan import Budget, Cell, Plan, entry
from alignzoo.compare.results import CellResult, Results
from alignzoo.evaluation.answers import Answer, write_answers

from .conftest import PLUGIN, SMALL
from .recompute import differing

ALGORITHMS = ("climb", "climb[optimizer.rate=3.0]", "climb[optimizer.rate=0.5]", "spends")
TASKS = ("numbers", "numbers[hard=0.5]")
QUALITY = {"start": 0.3, "best-of-4": 0.5, "random reward (climb)": 0.31, ALGORITHMS[0]: 0.9, ALGORITHMS[1]: 0.8}
PUBLISHED = sorted(each.parent for each in (Path(__file__).parents[2] / "benchmarks/results").glob("*/*/results.json"))
LOST = {("numbers", "climb[optimizer.rate=0.5]", 1): "diverged", ("numbers", ALGORITHMS[1], 2): "failed"}
"""Runs that fail, all on the first task."""
SPENT = {"spends": 1.4, "climb[optimizer.rate=0.5]": 0.8}


def grid(seeds: int, **changes: Any) -> Grid:
    settings = {
        "budget": Budget("tokens", 1e4),
        "prompts": 16,
        "overrides": SMALL,
        "plugins": (str(PLUGIN),),
        **changes,
    }
    plan = Plan(tuple(map(entry, ALGORITHMS)), tuple(map(entry, TASKS)), seeds=seeds, **settings)
    return Grid(plan, registry_of(plan.plugins))


def run(cell: Cell, folder: Path) -> CellResult:
    """What a cell might have come to: on the first task numbers, on the second right or wrong."""
    status: Any = LOST.get((cell.task, cell.algorithm, cell.seed), "ok")
    share = SPENT.get(cell.algorithm, 1.0)
    status = "over-budget" if status == "ok" and share > 1.1 else status
    costs = {"tokens": share * 1e4} if cell.recipe else {}
    kept = (cell.id, cell.algorithm, cell.task, cell.seed, cell.role, cell.overrides)
    where = folder / "cells" / cell.id
    where.mkdir(parents=True)
    if status in ("failed", "diverged"):
        return CellResult(*kept, status, "it fell over", costs=costs)
    rng = np.random.default_rng([*cell.id.encode()])
    quality = QUALITY.get(cell.algorithm, 0.55) + 0.05 * rng.normal()
    hard = np.random.default_rng(3).normal(size=16)
    answers = []
    for prompt in range(16):
        golds = 5 * quality + hard[prompt] + 0.3 * rng.normal(size=2)
        golds = golds if cell.task == "numbers" else (rng.random(2) < quality).astype(float)
        tokens = tuple(range(int(rng.integers(2, 9))))
        for greedy, gold in zip((False, True), map(float, golds), strict=True):
            answers.append(Answer(prompt, f"heldout {prompt}", "5", tokens, True, greedy, gold, gold))
    write_answers(where / "answers.jsonl", answers)
    return CellResult(*kept, status, steps=4 if cell.recipe else 0, after=figures(answers), costs=costs)


def made(folder: Path, seeds: int, looks: tuple[int, ...] = (), **changes: Any) -> Results:
    """A comparison's folder, as if it had been run."""
    of = grid(seeds, **changes)
    cells = [run(cell, folder) for cell in of.cells({})]
    for cell in cells:
        (folder / "cells" / cell.id / "cell.json").write_text(json.dumps(asdict(cell)))
    results = analyse(of, folder, cells, {}, looks=looks)
    results.write(folder)
    return results


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    top = tmp_path_factory.mktemp("made")
    for seeds, looks in ((3, ()), (5, (3, 5))):
        made(top / str(seeds), seeds, looks)
    yield {seeds: top / str(seeds) for seeds in (3, 5)}


@pytest.mark.parametrize("seeds", [3, 5])
def test_every_number_and_sentence_is_recomputed_from_the_raw_files(folders: dict[int, Path], seeds: int) -> None:
    assert differing(folders[seeds], {}) == []
    told = json.loads((folders[seeds] / "results.json").read_text())
    assert any(" beats " in h["text"] for h in told["headlines"])  # there is something to recompute
    assert any("not tested" in h["text"] for h in told["headlines"]) or seeds == 5
    assert any(not s["task"] for s in told["standings"]) == (seeds == 5)  # two tasks, five runs of each


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_published_comparison_is_what_its_raw_files_say(folder: Path) -> None:
    assert differing(folder, {}) == []


def test_the_script_needs_nothing_of_alignzoo_and_finds_a_changed_number(
    folders: dict[int, Path], tmp_path: Path
) -> None:
    script = Path(__file__).with_name("recompute.py")
    assert "import alignzoo" not in script.read_text() and "from alignzoo" not in script.read_text()
    for old in folders[3].rglob("answers.jsonl"):
        new = tmp_path / old.relative_to(folders[3])
        new.parent.mkdir(parents=True)
        new.write_text(old.read_text())
    text = (folders[3] / "results.json").read_text()
    (tmp_path / "results.json").write_text(text.replace(" beats ", " trounces ", 1))
    found = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 1 and "said, not recomputed" in found.stderr and "trounces" in found.stderr
