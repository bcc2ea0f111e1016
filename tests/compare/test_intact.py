"""A comparison does not go on from what has changed or was lost since: it says what, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.compare import read_results
from alignzoo.errors import RunError
from alignzoo.evaluation.answers import read_answers

from .conftest import CLIMB, PLUGIN, SMALL

REWARD = """
def fives(completions):
    return [SIGN * text.count("5") for text in completions]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A comparison that trains on a reward file, with a copy of the toy plugin; and its settings."""
    top = tmp_path_factory.mktemp("intact")
    (top / "fives.py").write_text(REWARD.replace("SIGN", "1"))
    shutil.copy(PLUGIN, top / "toy_plugin.py")
    settings = CLIMB | {
        "seeds": 1,
        "plugins": [top / "toy_plugin.py"],
        "overrides": (*SMALL, f'reward={{ name = "python", function = "{top}/fives.py:fives" }}'),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alignzoo.compare.running.write_report", lambda *folder, **registry: None)
        found = alignzoo.compare("climb", out=top / "out", **settings)
        assert not found.failures
        yield top, settings


@pytest.fixture
def goes_on(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> Any:
    """The same command in a copy of the comparison, in which something may be changed first."""
    shutil.copytree(made[0] / "out", tmp_path / "out")

    def run(**changes: Any) -> Any:
        return alignzoo.compare("climb", out=tmp_path / "out", **{**made[1], **changes})

    return run


@pytest.mark.parametrize(("name", "old", "new"), [("fives.py", "1 *", "-1 *"), ("toy_plugin.py", '"5"', '"6"')])
@pytest.mark.parametrize("known", ["run/manifest.json", "inputs.json"])
def test_changed_code_is_refused_before_anything_is_run(
    made: tuple[Path, dict[str, Any]], goes_on: Any, tmp_path: Path, name: str, old: str, new: str, known: str
) -> None:
    """Each of the two files of a cell is enough to tell: controls, which train nothing, have inputs.json alone."""
    other = {"run/manifest.json": "inputs.json", "inputs.json": "run/manifest.json"}[known]
    for path in (tmp_path / "out" / "cells").glob(f"*/*/*/{other}"):
        path.unlink()
    file = made[0] / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    try:
        with pytest.raises(RunError, match=f"{name} has changed: it") as told:
            goes_on(seeds=2)
    finally:
        file.write_text(text)
    assert "numbers/" in str(told.value)
    assert "\nPut the former ones back, or give another --out. Or delete the folders of those cells" in str(told.value)
    assert not list((tmp_path / "out" / "cells").glob("*/*/seed-1"))


def test_what_is_the_same_goes_on_and_an_old_comparison_does(goes_on: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "out" / "cells").glob("*/*/*/inputs.json"):
        path.unlink()
    for path in (tmp_path / "out" / "cells").glob("*/*/*/cell.json"):
        cell = json.loads(path.read_text())
        assert cell.pop("answers")["lines"] > 0
        path.write_text(json.dumps(cell))
    assert [cell.status for cell in goes_on().cells] == ["ok"] * 4


def lost(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("heldout", "HELDOUT", 1))


@pytest.mark.parametrize(
    ("change", "said"), [(lost, "is gone, though"), (cut, "lines, now 2"), (edited, "it had other text")]
)
def test_answers_of_a_finished_cell_that_are_lost_or_changed_are_refused(
    change: Any, said: str, goes_on: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "cells" / "numbers" / "climb" / "seed-0"
    change(folder / "answers.jsonl")
    with pytest.raises(RunError, match=said) as told:
        goes_on()
    assert "numbers/climb/seed-0" in str(told.value)
    assert "Delete this cell's folder: the same command runs it again" in str(told.value)


def test_a_figure_that_is_no_number_is_not_printed(goes_on: Any, tmp_path: Path) -> None:
    path = tmp_path / "out" / "cells" / "numbers" / "climb" / "seed-0" / "cell.json"
    cell = json.loads(path.read_text())
    cell["after"]["gold"] = float("nan")
    path.write_text(json.dumps(cell))
    with pytest.raises(RunError, match=r"climb/seed-0/cell\.json: gold is nan, which no finished cell has\. Delete"):
        goes_on()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("cell.json", "plan.json") for text in ("{}", "[]", "null", "")),
        *(("timing.json", text) for text in ("[]", "null", '{"seconds": "x"}', "")),
    ],
)
def test_a_damaged_file_of_a_cell_is_named_with_its_cure(name: str, text: str, goes_on: Any, tmp_path: Path) -> None:
    path = tmp_path / "out" / "cells" / "numbers" / "climb" / "seed-0" / name
    path.write_text(text)
    with pytest.raises(
        RunError, match=f"climb/seed-0/{name}.*Delete this cell's folder: the same command runs it again"
    ):
        goes_on()


WITHOUT = {"settings": {"looks": ["x"]}}


@pytest.mark.parametrize("text", ["{}", "[]", "null", "", '{"settings": []}', json.dumps(WITHOUT), '{"format": 2}'])
def test_damaged_results_are_named_with_their_cure(text: str, goes_on: Any, tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    whole = json.loads(path.read_text())
    path.write_text(text)
    for read in (lambda: read_results(tmp_path / "out"), *([goes_on] if "looks" in text or "[]" in text else [])):
        with pytest.raises(
            RunError, match=r"results\.json.*Put it back, or delete it: the same command writes it again"
        ):
            read()
    for name, odd in (
        ("settings", []),
        ("settings", {"looks": ["x"]}),
        ("cells", {}),
        ("pairs", [None]),
        ("metric", 1),
    ):
        path.write_text(json.dumps({**whole, name: odd}))
        with pytest.raises(RunError, match=r"results\.json.*Put it back, or delete it"):
            read_results(tmp_path / "out")


def test_a_line_of_answers_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("{}\n")
    with pytest.raises(RunError, match=r"answers\.jsonl, line 1: has no 'prompt' and no 'asked'"):
        list(read_answers(path))


def test_an_edited_recipe_is_refused_and_another_description_is_not(compare: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'description = "mine"\ntask = "numbers"\n[[stage]]\nname = "climb"\npolicy = "toy"\n'
        'sampler = { name = "policy", n = 4 }\noptimizer = "climb"\n'
    )
    assert not compare(str(recipe), seeds=1).failures
    text = recipe.read_text()
    recipe.write_text(text.replace('"mine"', '"mine, and yours"'))
    assert not compare(str(recipe), seeds=1).failures
    recipe.write_text(f"{text}schedule = {{ warmup = 0.5 }}\n")
    with pytest.raises(RunError, match=r"mine\.toml has changed: climb\.schedule\.warmup: was 0\.0, now 0\.5") as told:
        compare(str(recipe), seeds=2)
    assert "2 had other recipes, data, models or plugins, numbers/" in str(told.value)
