"""`compare --also`: evaluations from outside as columns, item by item, kept with the cell, and told where they fail."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from alignzoo.compare import alongside, also
from alignzoo.compare.plan import Cell, Measure, read_cell
from alignzoo.compare.results import CellResult, Column, Role, read_results
from alignzoo.compare.running import _check_same
from alignzoo.compare.table import tables
from alignzoo.errors import DataError, RecipeError, RunError
from alignzoo.evaluation.outside import Item, Measured
from alignzoo.registry import Registry
from alignzoo.types import Prompt
from compare.toy_plugin import Saved

HARNESS = """
import os
from pathlib import Path

__version__ = "0.4.13"
ASKED = Path(__file__).with_name("asked.txt")


def simple_evaluate(model, model_args, tasks, limit, log_samples, bootstrap_iters):
    where = model_args["pretrained"]
    with ASKED.open("a") as asked:
        asked.write(f"{tasks[0]} {where}\\n")
    if tasks[0] == "broken":
        raise RuntimeError("out of luck")
    trained = Path(where).is_dir()
    rows = [
        {"filter": "none", "metrics": ["acc", "bits"], "doc_id": i, "acc": int(i % 4 > trained), "bits": 2.0 - trained}
        for i in range(limit or 8)
    ]
    return {"samples": {tasks[0]: rows}, "higher_is_better": {tasks[0]: {"acc": True, "bits": False}}}
"""
"""A package with the interface of lm_eval, by which a trained model knows a quarter less."""


@pytest.fixture(scope="module")
def zoo() -> Registry:
    return Registry()


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "packages" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(HARNESS)
    (package / "tasks.py").write_text("class TaskManager:\n    all_tasks = ['quiz', 'broken']\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(package.parent)
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return package / "asked.txt"


@pytest.mark.slow
def test_columns_of_a_whole_comparison(compare: Callable[..., Any], harness: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "out", ("climb", "climb[optimizer.rate=2.0]")
    found = compare(*names, also=["lm-eval:quiz"], also_limit=8, report=True)
    acc, bits = found.columns
    assert (acc.name, bits.name, bits.lower_is_better) == ("lm-eval:quiz acc", "lm-eval:quiz bits", True)
    means = {each.algorithm: each.mean for each in acc.standings}
    assert means == {"start": 0.75, "random reward (climb)": 0.5, "climb": 0.5, "climb[optimizer.rate=2.0]": 0.5}
    lost = [(p.a, p.difference, p.n_seeds, p.n_prompts) for p in acc.pairs if p.b == "start"]
    assert lost == [(name, -0.25, 2, 8) for name in names]
    asked = harness.read_text().splitlines()
    assert len(asked) == 7 and asked.count("quiz start") == 1  # the start once, six trained ones
    assert any(text.text.startswith("By lm-eval:quiz bits") and "is better" in text.text for text in found.headlines)
    assert read_results(out).columns == found.columns
    for page in ("report.html", "report.md"):
        assert "lm-eval:quiz" in (out / page).read_text() and "less the start" in (out / page).read_text()
    assert "--also lm-eval:quiz --also-limit 8" in found.command
    shown = Console(width=80, file=io.StringIO())
    for table in tables(found, out):
        shown.print(table)
    said = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "numbers: lm-eval:quiz bits, lower is better, 8 items" in said and "-0.250" in said

    more = compare(*names, also=["lm-eval:quiz", "lm-eval:broken", "numbers"], also_limit=8)
    again = harness.read_text().splitlines()[len(asked) :]
    assert {line.split()[0] for line in again} == {"broken"}  # what is there is not made again
    assert {column.evaluation for column in more.columns} == {"lm-eval:quiz", "numbers"}
    assert more.columns[0].standings == acc.standings  # its pairs are of a larger family now
    assert any("lm-eval:broken failed for 7 runs" in note and "out of luck" in note for note in more.notes)


@pytest.mark.parametrize(
    ("name", "limit", "says"),
    [
        ("lm-eval:quizz", None, "lm_eval has no task 'quizz'. Did you mean quiz?"),
        ("sortt", None, "--also sortt: neither a task nor a file. Did you mean 'sort'"),
    ],
)
def test_what_cannot_be_evaluated_is_told_at_once(
    name: str, limit: Any, says: str, harness: Path, zoo: Registry
) -> None:
    with pytest.raises((RecipeError, DataError), match=says.replace(".", r"\.")):
        also.check([name], limit, zoo)


def test_names_that_cannot_be_columns(tmp_path: Path, zoo: Registry) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "p", "completion": "only one"}) + "\n")
    with pytest.raises(DataError, match="has no better and worse answer"):
        also.check([str(file)], None, zoo)
    with pytest.raises(RecipeError, match="given twice"):
        also.check(["sort", "sort"], None, zoo)
    with pytest.raises(RecipeError, match="of which there is none"):
        also.check([], 5, zoo)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def folder_of(tmp_path: Path, values: dict[tuple[str, Role, int], list[float]], *, lower: bool = False) -> list[Any]:
    """Cells whose evaluation "quiz" has these values of "m", by algorithm, role and seed; empty: it failed."""
    cells = []
    for (label, role, seed), row in values.items():
        result = CellResult(f"t/{label}/seed-{seed}", label, "t", seed, role, (), "ok")
        place = tmp_path / result.folder
        cell = Cell(result.id, label, "r", "t", seed, role, (), Measure(0, 1, 1, 0), "r", (), "start", also=("sort",))
        cell.write(place)
        items = tuple(Item(str(i), "m", value) for i, value in enumerate(row))
        also._write(place, also.Told(Measured("sort", items, frozenset({"m"} if lower else ())), "" if row else "no"))
        cells.append(result)
    return cells


def column(tmp_path: Path, values: dict[tuple[str, Role, int], list[float]], *, lower: bool = False) -> Column:
    (found,) = alongside.columns(tmp_path, folder_of(tmp_path, values, lower=lower), 0.05)
    return found


def test_differences_are_paired_by_seed_and_item(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=20) * 5  # items differ by far more than algorithms do
    values: dict[tuple[str, Role, int], list[float]] = {("start", "start", 0): list(hard)}
    for label, shift in (("a", 1.0), ("b", 0.0)):
        for seed in range(3):
            noise = rng.normal(size=20) * 0.1
            values[label, "algorithm", seed] = list(hard + shift + noise)
    found = column(tmp_path, values)
    between = {(pair.a, pair.b): pair for pair in found.pairs}
    assert between["a", "b"].difference == pytest.approx(1.0, abs=0.1) and between["a", "b"].shown
    assert between["a", "start"].shown and not between["b", "start"].shown
    assert {pair.family for pair in found.pairs if pair.b == "start"} == {"controls"}
    a = next(each for each in found.standings if each.algorithm == "a")
    assert a.mean == pytest.approx(np.mean([values["a", "algorithm", seed] for seed in range(3)]))
    (sentence,) = alongside.sentences(found)
    assert "against start: a is better (+1.0" in sentence and "no difference is shown for b" in sentence
    (turned,) = alongside.sentences(replace(found, lower_is_better=True))
    assert "a is worse" in turned


@pytest.mark.parametrize("items", [4, 200])
def test_a_few_pairs_that_all_went_right_are_no_certainty(tmp_path: Path, items: int) -> None:
    """The start prefers neither of two answers, ½, so that not all values are 0 or 1. They are shares all the same."""
    values: dict[tuple[str, Role, int], list[float]] = {("start", "start", 0): [0.5] * items}
    values |= {("a", "algorithm", seed): [1.0] * items for seed in range(3)}
    found = column(tmp_path, values)
    (pair,) = found.pairs
    assert pair.difference == 0.5 and pair.low is not None and pair.high is not None
    assert pair.low < 0.5 < pair.high <= 1 and pair.shown == (items == 200)
    a = next(each for each in found.standings if each.algorithm == "a")
    assert a.low < 1 and a.high == 1


def test_a_run_that_failed_counts_as_the_worse_one_whichever_side_is_worse(tmp_path: Path) -> None:
    values: dict[tuple[str, Role, int], list[float]] = {
        ("start", "start", 0): [2.0, 2.0],
        ("a", "algorithm", 0): [1.0, 1.0],
        ("b", "algorithm", 0): [1.0, 1.0],
        ("b", "algorithm", 1): [1.0, 1.0],
    }
    lower = column(tmp_path / "lower", values, lower=True)
    higher = column(tmp_path / "higher", values)
    for found, expected in ((lower, (1.0, 2.0)), (higher, (1.0, 1.0))):  # the start's 2 is worse where lower is better
        a = next(each for each in found.standings if each.algorithm == "a")
        assert a.values == expected and a.failed == 1


def test_a_seed_of_which_an_evaluation_failed_is_left_out(tmp_path: Path) -> None:
    values: dict[tuple[str, Role, int], list[float]] = {
        ("start", "start", 0): [2.0, 2.0],
        ("a", "algorithm", 0): [3.0, 3.0],
        ("a", "algorithm", 1): [],
        ("b", "algorithm", 0): [4.0, 4.0],
        ("b", "algorithm", 1): [0.0, 0.0],
    }
    found = column(tmp_path, values)
    assert {each.algorithm: each.values for each in found.standings} == {"start": (2.0,), "a": (3.0,), "b": (4.0,)}
    assert not any(each.failed for each in found.standings)
    none = {key: row if key[1] == "start" else [] for key, row in values.items()}
    assert alongside.columns(tmp_path / "none", folder_of(tmp_path / "none", none), 0.05) == ()


def test_one_seed_has_means_and_no_verdicts(tmp_path: Path) -> None:
    found = column(tmp_path, {("start", "start", 0): [1.0, 0.0, 1.0], ("a", "algorithm", 0): [1.0, 1.0, 1.0]})
    (pair,) = found.pairs
    assert pair.difference == pytest.approx(1 / 3) and pair.low is None and not pair.shown
    assert not list(alongside.sentences(found))


def test_an_evaluation_that_failed_is_told_and_can_be_made_again(tmp_path: Path) -> None:
    cells = folder_of(tmp_path, {("start", "start", 0): [1.0], ("a", "algorithm", 0): []})
    assert [text for text in alongside.failures(tmp_path, cells) if "sort failed for 1 run, t/a/seed-0" in text]
    cell, place = read_cell(tmp_path / cells[1].folder), tmp_path / cells[1].folder
    assert also.missing(cell, place) == []
    also.forget_failed(cell, place)
    assert also.missing(cell, place) == ["sort"]


def test_a_cell_is_evaluated_once_and_what_fails_leaves_the_rest(harness: Path, tmp_path: Path, zoo: Registry) -> None:
    model = tmp_path / "model"
    model.mkdir()
    cells = folder_of(tmp_path, {("a", "algorithm", 0): [1.0]})
    place = tmp_path / cells[0].folder
    cell = replace(read_cell(place), also=("sort", "lm-eval:broken", "lm-eval:quiz"))
    stage: Any = SimpleNamespace(policy=SimpleNamespace(model="start"))
    for _ in range(2):
        also.evaluate(cell, place, stage, str(model), zoo)
    assert harness.read_text().splitlines() == [f"broken {model}", f"quiz {model}"]
    kept, broken, quiz = also.read_told(cell, place)
    assert kept.measured.items == (Item("0", "m", 1.0),) and broken.error == "RuntimeError: out of luck"
    assert quiz.measured.metrics()["acc"] == {f"quiz:{i}": float(i % 4 > 1) for i in range(8)}


def test_more_evaluations_are_the_same_comparison_and_another_limit_is_not(tmp_path: Path) -> None:
    folder_of(tmp_path, {("a", "algorithm", 0): [1.0]})
    place = tmp_path / "cells/t/a/seed-0"
    former = read_cell(place)
    _check_same(former, replace(former, also=("sort", "shop")), place)
    _check_same(former, replace(former, also=(), also_limit=3), place)
    with pytest.raises(RunError, match="also_limit: was None, now 3"):
        _check_same(former, replace(former, also_limit=3), place)
    with pytest.raises(RunError, match="another comparison"):
        _check_same(former, replace(former, also=("shop",), start="other"), place)


def test_what_raises_the_chosen_answer_more_prefers_it() -> None:
    policy, start = Saved(seed=3), Saved(seed=3)
    policy.drift(0.3, 1)
    prompts = [Prompt(f"p{i}", (f"good {i}", "bad"), (1.0, 0.0), {"subset": "s"}) for i in range(40)]
    found = also.by_raising("pairs", prompts, policy, start)
    figures = found.metrics()
    assert len(figures["preference"]) == 40 and set(figures["preference"].values()) <= {0.0, 1.0}
    assert figures["preference/s"] == figures["preference"] and found.lower_is_better == {"nll"}
    turned = [replace(each, labels=(0.0, 1.0)) for each in prompts]
    other = also.by_raising("pairs", turned, policy, start)
    assert other.metrics()["preference"] == {item: 1 - value for item, value in figures["preference"].items()}
    assert other.about["sha256"] != found.about["sha256"]
    assert set(also.by_raising("pairs", prompts, start, start).metrics()["preference"].values()) == {0.5}
