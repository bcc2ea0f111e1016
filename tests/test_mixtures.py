"""Data mixtures: shares by weight, every row at least once, the same in every run, and told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignzoo import Prompt
from alignzoo.data import Data, Part, train_and_heldout
from alignzoo.data.indexed import changed, chosen, fact
from alignzoo.data.mixing import in_turn, mixed
from alignzoo.errors import RecipeError
from alignzoo.recipe import Stage, load
from alignzoo.registry import Registry
from alignzoo.runs.stage_data import data_of


def rows(name: str, n: int) -> list[Prompt]:
    return [Prompt(f"{name}{i}", (f"{name}!",)) for i in range(n)]


def test_every_row_comes_by_and_sources_in_their_shares() -> None:
    parts, sources = (Part("a", 1.0), Part("b", 3.0)), (rows("a", 21), rows("b", 8))
    found = mixed(parts, sources)
    # a has 21 rows and a quarter of the pass: 84 rows, of which b's 8 fill 63, 7 times and 7 of them once more
    counts = Counter(str(prompt.messages) for prompt in found)
    assert len(found) == 84 and all(counts[f"a{i}"] == 1 for i in range(21))
    assert sorted(counts[f"b{i}"] for i in range(8)) == [7] + [8] * 7
    assert str(found) == "mixture: 0.25 a (21 rows); 0.75 b (8 rows, each 7.88 times a pass)"
    again = mixed(parts, sources)
    assert np.array_equal(found.which, again.which) and np.array_equal(found.place, again.place)


def test_a_mixture_is_a_sequence_that_knows_its_facts() -> None:
    found = mixed((Part("a"), Part("b")), (rows("a", 3), rows("b", 2)))
    assert np.array_equal(fact(found, "point"), fact(list(found), "point"))
    kept = chosen(found, fact(found, "point") != fact(rows("a", 1), "point")[0])
    assert [prompt.messages for prompt in kept] == [p.messages for p in found if p.messages != "a0"]
    assert [prompt.messages for prompt in changed(found, lambda p: Prompt("x"))] == ["x"] * len(found)
    assert [prompt.messages for prompt in found[1:3]] == ["a1", "a2"] and found[-1].messages == list(found)[-1].messages
    assert [str(p.messages)[0] for p in in_turn((Part("a"), Part("b")), (rows("a", 6), rows("b", 2)))] == list(
        "aabaaaba"
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text("".join(json.dumps({"prompt": f"q{i}?", "completion": "x"}) + "\n" for i in range(30)))
    b.write_text("".join(json.dumps({"asked": f"q{i}?", "told": "y"}) + "\n" for i in range(20, 40)))
    return a, b


def test_what_one_source_holds_out_no_other_trains_on(files: tuple[Path, Path]) -> None:
    names = {"prompt": "asked", "completion": "told"}
    mix = (Part(str(files[0])), Part(str(files[1]), 2.0, columns=names))
    train, heldout = train_and_heldout(Data(mix=mix, heldout=0.3))
    assert not {p.messages for p in train} & {p.messages for p in heldout}
    assert {p.completions[0] for p in heldout} == {p.completions[0] for p in train} == {"x", "y"}
    first = files[0].with_name("c.jsonl")
    first.write_text("".join(files[0].read_text().splitlines(keepends=True)[:25]))
    with pytest.warns(UserWarning, match="held out: (25|5)"):
        train, heldout = train_and_heldout(Data(mix=mix, heldout_path=str(first)))
    assert len(heldout) == 25 and {p.messages for p in train} == {f"q{i}?" for i in range(25, 40)}


@pytest.fixture(scope="module")
def stage() -> Any:
    registry = Registry()
    registry.load_all()
    return lambda data: load("sft", [("policy.model", "any"), ("data", data)], registry=registry).stages[0]


def test_a_recipe_lists_sources_and_python_gives_rows(files: tuple[Path, Path], stage: Any) -> None:
    a = str(files[0])
    listed: Stage = stage(
        [{"path": a}, {"rows": [{"prompt": f"r{i}", "completion": "z"} for i in range(9)], "weight": 2}]
    )
    assert isinstance(listed.data, Data) and [part.weight for part in listed.data.mix] == [1.0, 2.0]
    assert {p.completions[0] for p in data_of(listed)[0]} == {"x", "z"}
    assert listed.resolved["data"]["mix"][0]["path"] == a  # so that a changed file is noticed when a run is resumed
    assert stage({"mix": [{"path": a, "weight": 3}], "heldout": 0.2}).data.heldout == 0.2
    plain: Stage = stage([{"prompt": "p", "path": "of no meaning here", "completion": "c"}])
    assert isinstance(plain.data, Data) and not plain.data.mix  # rows may have a column of that name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"path": "a", "wieght": 1}], "wieght.*Did you mean 'weight'"),
        ([{"path": "a", "weight": 0}], "weight.*found 0.*greater than 0|weight.*found 0.*above 0"),
        ([{"path": ""}], "path is missing"),
        ([{"path": "a"}, 3], r"data\.1: found 3, allowed: a table of a source's settings"),
        ({"path": "a", "mix": [{"path": "b"}]}, "give one of the two"),
        ({"mix": [{"path": "b"}], "limit": 3}, "each source's own"),
    ],
)
def test_what_is_no_mixture_is_refused(stage: Any, data: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage(data)
