"""A comparison from start to end: what is the same for all, what is counted, what is written."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import alignzoo
from alignzoo.compare import Results, read_results
from alignzoo.compare.table import tables
from alignzoo.evaluation.answers import by_prompt, read_answers
from alignzoo.files import line_of, read_lines

from .conftest import Compare
from .recompute import differing


def test_every_cell_is_an_ordinary_run_and_controls_are_always_there(compare: Compare, tmp_path: Path) -> None:
    results = compare("climb", "climb[optimizer.rate=3.0]", report=True)
    assert all(label in (tmp_path / "out" / "report.md").read_text() for label in ("best-of-4", "climb", "start"))
    labels = {each.label: each.role for each in results.algorithms}
    assert labels == {
        "start": "start",
        "best-of-4": "best-of",
        "random reward (climb)": "random",
        "climb": "algorithm",
        "climb[optimizer.rate=3.0]": "algorithm",
    }
    assert [cell.status for cell in results.cells] == ["ok"] * 10
    assert results.metric == {"numbers": "gold"}
    run = tmp_path / "out" / "cells" / "numbers" / "climb" / "seed-1" / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["recipe"]["stage"][0]["seed"] == 1
    assert (run / "result.json").exists() and not (run / "checkpoints").exists()
    assert read_results(tmp_path / "out") == results
    judged = compare("climb", "climb[optimizer.rate=3.0]", judge="umpire")  # the same cells: only the verdicts are new
    assert judged.win_rates == results.win_rates and judged.cells == results.cells
    assert any("judged by umpire, each pair of answers in both orders" in note for note in judged.notes)
    said = read_lines(tmp_path / "out" / "verdicts.jsonl")
    assert len(said) == 10 * 2 * 12  # pairs of five methods, seeds, prompts
    assert differing(tmp_path / "out", {}) == []
    turned = [each | {"a_first": 1 - each["a_first"], "b_first": 1 - each["b_first"]} for each in said]
    (tmp_path / "out" / "verdicts.jsonl").write_text("".join(map(line_of, turned)))
    assert any(each.startswith("win-rate start climb rate") for each in differing(tmp_path / "out", {}))
    compare("climb", "climb[optimizer.rate=3.0]")
    assert not (tmp_path / "out" / "verdicts.jsonl").exists()  # gold scores judge again

    start, climb = (
        next(c for c in results.cells if (c.algorithm, c.seed) == (label, 1)) for label in ("start", "climb")
    )
    assert climb.before == start.after
    assert climb.after["gold"] > start.after["gold"]
    assert start.after["kl"] == 0 and climb.after["kl"] > 0
    assert climb.after["gold"] == climb.after["reward"]
    answers = list(read_answers(tmp_path / "out" / climb.folder / "answers.jsonl"))
    assert sum(by_prompt((a for a in answers if not a.greedy), "gold").values()) / 12 == pytest.approx(
        climb.after["gold"]
    )
    assert {each.prompt for each in answers} == set(range(12))
    shown = next(each for each in answers if not each.greedy)
    assert math.fsum(shown.logprobs) - math.fsum(shown.start_logprobs) == pytest.approx(shown.kl, abs=1e-2)
    assert_nothing_is_cut_off(results, tmp_path / "out")


def printed(results: Results, folder: Path) -> str:
    """On a log's hundred columns."""
    file = io.StringIO()
    for table in tables(results, folder):
        Console(width=100, file=file).print(table)
    return file.getvalue()


def assert_nothing_is_cut_off(results: Results, folder: Path) -> None:
    shown = printed(results, folder)
    assert "…" not in shown
    for label in (each.label for each in results.algorithms):
        assert shown.count(f"\n  {label} ") == 3  # with what is compared, with the rest, with the costs


def test_a_comparison_goes_on_where_it_was_and_never_runs_a_finished_cell_again(
    compare: Compare, tmp_path: Path
) -> None:
    compare("climb", seeds=1)
    cells = tmp_path / "out" / "cells" / "numbers"
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("cell.json")}
    assert len(before) == 4
    larger = compare("climb", "climb[optimizer.rate=3.0]", seeds=2)  # a larger comparison that contains it
    assert larger.settings["looks"] == [1, 2]  # the former look is remembered, and spent a part of the level
    assert larger.settings["level"] == pytest.approx(6 * 0.05 / (math.pi * 2) ** 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(cells.rglob("cell.json"))) == 10
    with pytest.raises(alignzoo.RunError, match="is of another comparison") as told:
        compare("climb", seeds=1, prompts=10)
    assert "measure: was" in str(told.value)


def test_what_fails_diverges_or_spends_too_much_is_counted_and_shown(compare: Compare, tmp_path: Path) -> None:
    results = compare("climb", "crashes", "dies", "explodes", "spends", budget="tokens=2000", jobs=2, report=True)
    assert (tmp_path / "out" / "report.html").exists()
    ended = {each.label: dict(each.failed) for each in results.algorithms if each.role == "algorithm"}
    assert ended == {
        "climb": {},
        "crashes": {"failed": 2},
        "dies": {"failed": 2},
        "explodes": {"diverged": 2},
        "spends": {"over-budget": 2},
    }
    errors = {cell.algorithm: cell.error for cell in results.failures}
    assert errors["crashes"] == "IndexError: no such row"
    assert errors["dies"] == "its process was killed by SIGSEGV"
    assert "not finite in step 3" in errors["explodes"]
    spent = {cell.algorithm: cell.costs["tokens"] for cell in results.cells if cell.seed == 0}
    assert spent["climb"] == pytest.approx(2000, rel=0.1) and spent["spends"] > 2200
    told = [each.text for each in results.headlines]
    for sentence in (
        "2 of 2 runs of crashes on numbers failed, so that it has no mean and no rank.",
        "2 of 2 runs of explodes on numbers diverged, so that it has no mean and no rank.",
        "2 of 2 runs of spends on numbers went over the budget: they spent ",
    ):
        assert any(text.startswith(sentence) for text in told)
    compared = {each.a for each in results.pairs} | {each.b for each in results.pairs}
    assert {"climb", "spends"} <= compared and not {"crashes", "dies", "explodes"} & compared
    shown = printed(results, tmp_path / "out")
    for label, ended in {
        "climb": "2 ok",
        "dies": "2 failed",
        "explodes": "2 diverged",
        "spends": "2 over-budget",
    }.items():
        assert re.search(rf"  {label} .*  {ended} ", shown)
    log = (tmp_path / "out" / "cells" / "numbers" / "crashes" / "seed-0" / "log.txt").read_text()
    assert "Traceback" in log


@pytest.mark.slow
def test_failed_cells_are_run_again_when_asked(compare: Compare, tmp_path: Path) -> None:
    compare("crashes", seeds=1)
    cell = tmp_path / "out" / "cells" / "numbers" / "crashes" / "seed-0" / "cell.json"
    first = cell.stat().st_mtime_ns
    compare("crashes", seeds=1)
    assert cell.stat().st_mtime_ns == first
    compare("crashes", seeds=1, retry=True)
    assert cell.stat().st_mtime_ns > first


@pytest.mark.slow
def test_equal_budgets_are_spent_alike_and_exactly_repeatable(compare: Compare, tmp_path: Path) -> None:
    results = compare("climb", "climb[optimizer.epochs=4]", budget="tokens=6000", seeds=1)
    spent = {cell.algorithm: (cell.costs["tokens"], cell.steps) for cell in results.cells if cell.steps}
    assert all(tokens == pytest.approx(6000, rel=0.1) for tokens, _ in spent.values())
    assert spent["climb"][1] > spent["climb[optimizer.epochs=4]"][1]
    assert "its budget is spent" in next(cell.stopped for cell in results.cells if cell.algorithm == "climb")
    on_the_way = (tmp_path / "out" / "cells" / "numbers" / "climb" / "seed-0" / "run" / "evaluations.jsonl").read_text()
    assert on_the_way.count('"during"') == 4
    again = compare("climb", "climb[optimizer.epochs=4]", budget="tokens=6000", seeds=1, out=tmp_path / "again")
    assert again == results


@pytest.mark.slow
def test_all_get_the_same_trials_and_trials_are_in_no_statistic(compare: Compare) -> None:
    results = compare("climb", "climb[optimizer.epochs=2]", seeds=1, tune=3)
    trials = [cell for cell in results.cells if cell.role == "trial"]
    assert {cell.algorithm: sum(c.algorithm == cell.algorithm for c in trials) for cell in trials} == {
        "climb": 3,
        "climb[optimizer.epochs=2]": 3,
    }
    mine = [cell for cell in trials if cell.algorithm == "climb"]
    best = max(range(3), key=lambda i: mine[i].after["reward"])
    tuned = results.compared("climb").tuned
    assert tuned == ({} if best == 0 else {"numbers": mine[best].overrides[-2:]})
    assert [any("optimizer.rate" in o for o in cell.overrides) for cell in mine] == [False, True, True]
    (standing,) = (s for s in results.standings if (s.task, s.algorithm, s.metric) == ("numbers", "climb", "gold"))
    assert len(standing.values) == 1
    assert any("3 trials" in note for note in results.notes)


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        ((), {}, "nothing to compare"),
        (("climb", "climb"), {}, "'climb' is given twice"),
        (("climbs",), {}, "Did you mean 'climb'"),
        (("climb[rate]",), {}, "'rate' is no key=value"),
        (("climb",), {"budget": "token=3"}, "there is no currency 'token'. Did you mean 'tokens'"),
        (("climb",), {"budget": "tokens=none"}, "expected a number above 0"),
        (("climb",), {"overrides": ("task=shop",)}, "say --task NAME"),
        (("climb",), {"task": "number"}, "Did you mean 'numbers'"),
        (("climb",), {"judge": "umpires"}, "Did you mean 'umpire'"),
        (("climb", "climb[policy.name=hf,policy.temperature=0.7]", "sft"), {"overrides": ()}, "decodes alike"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    compare: Compare, tmp_path: Path, names: tuple[str, ...], settings: dict[str, object], said: str
) -> None:
    with pytest.raises(alignzoo.AlignzooError, match=said.replace("(", r"\(")):
        compare(*names, **settings)
    assert not (tmp_path / "out" / "cells").exists()


def test_the_package_is_the_function_too(compare: Compare) -> None:
    import alignzoo.compare.results  # whoever imports a part of the package first must still be able to call it

    assert callable(alignzoo.compare)


@pytest.mark.parametrize(
    ("setting", "value"), [("seeds", 0), ("seeds", 1.5), ("seeds", "2"), ("tune", 1.5), ("jobs", 0)]
)
def test_numbers_that_compare_nothing_are_refused(compare: Compare, setting: str, value: Any) -> None:
    with pytest.raises(alignzoo.AlignzooError, match=rf"{setting}: found .*, allowed: an integer at least"):
        compare("climb", **{setting: value})
