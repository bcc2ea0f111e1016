"""The page on own columns: its plugin keeps the laws, whose worlds have its column."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

import printed
from alignzoo import Group, Prompt, Score
from alignzoo.batching import collate
from alignzoo.errors import DataError, PluginError
from alignzoo.testing import OPTIMIZER_CHECKS, check_optimizer, check_sampler, toy_groups, toy_policy
from alignzoo.traits import check_optimizer as check_traits

PAGE = printed.ROOT / "docs" / "own-columns.md"


@pytest.fixture
def page(tmp_path: Any) -> Iterator[ModuleType]:
    """The page's plugin."""
    file = tmp_path / "greedy.py"
    file.write_text(PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("greedy_of_the_page", file)
    assert spec is not None and spec.loader is not None
    sys.modules["greedy_of_the_page"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["greedy_of_the_page"]


def test_the_page_keeps_the_laws(page: ModuleType) -> None:
    check_optimizer(page.GreedyBaseline(), only=[name for name in OPTIMIZER_CHECKS if name != "resume"])
    check_sampler(page.AndGreedy(n=2))
    group = page.AndGreedy(n=2).sample([Prompt("what is 1")], toy_policy(), seeds=[3])[0]
    assert group.extra == {"greedy": (0.0, 0.0, 1.0)}


def test_an_optimizer_that_trains_on_its_baseline_is_caught(page: ModuleType) -> None:
    class WrongRow(page.GreedyBaseline):  # type: ignore[name-defined, misc]
        def prepare(self, batch: Any) -> Any:
            return super().prepare(replace(batch, extra={"greedy": 1 - batch.extra["greedy"]}))

    with pytest.raises(AssertionError, match="law 6 is broken"):
        check_optimizer(WrongRow(), only=["prefers_better"])


def test_a_role_has_one_completion_of_each_group() -> None:
    groups = toy_groups(columns=["greedy=0,1", "margin"])
    assert [group.extra["greedy"] for group in groups[:4]] == [
        (0.0,),
        (1.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
        (1.0, *[0.0] * 7),
    ]
    assert all(len(set(group.extra["margin"])) == 1 for group in groups)
    with pytest.raises(ValueError, match="with numbers, as greedy=0,1"):
        toy_groups(columns=["greedy=yes"])


def test_a_column_that_nobody_brings_is_told_by_its_name() -> None:
    batch = collate(toy_groups())
    batch = batch.select(torch.arange(len(batch)) < 2)
    with pytest.raises(DataError, match=r"'greedy' is read of Batch.extra, and neither the stage's sampler .* found: "):
        batch.extra["greedy"]
    assert batch.extra.get("greedy") is None and "greedy" not in batch.extra


def test_a_step_without_scores_has_its_columns() -> None:
    unscored = [Group(Prompt("p"), (2,), g.completions, (Score(None),), {"greedy": (1.0,)}) for g in toy_groups()[:1]]
    batch = collate(unscored)
    assert len(batch) == 0 and torch.equal(batch.extra["greedy"], torch.zeros(0))
    assert {"finished", "staleness"} <= batch.extra.keys()


@pytest.mark.parametrize(
    "given", [("greedy",), {"greedy": ()}, {"greedy": (0.0, "one")}], ids=["names", "none", "a word"]
)
def test_a_trait_that_cannot_be(page: ModuleType, given: Any) -> None:
    part = type("Part", (page.GreedyBaseline,), {"columns": given})
    with pytest.raises(PluginError, match="columns"):
        check_traits("part", part())
