"""How far a comparison is: the time left, and reports on the way that decide nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import alignzoo
from alignzoo.compare.live import Live, _comparable, about
from alignzoo.compare.results import CellResult
from compare.conftest import CLIMB


def cell(algorithm: str, seed: int, role: Any = "algorithm") -> CellResult:
    return CellResult(f"t/{algorithm}/{seed}", algorithm, "t", seed, role, (), "ok", after={"gold": 1.0})


def planned(algorithm: str, seed: int) -> Any:
    return SimpleNamespace(id=f"t/{algorithm}/{seed}", algorithm=algorithm, task="t", seed=seed, recipe=algorithm)


def test_the_time_left_is_by_what_each_algorithm_took_at_this_sessions_pace(tmp_path: Path) -> None:
    now = [0.0]
    live = Live(SimpleNamespace(), tmp_path, lambda *told: None, lambda: now[0])  # type: ignore[arg-type]
    todo = [planned(name, seed) for seed in range(2) for name in ("quick", "slow")]
    live.next_report = 1e9
    for name, took in (("quick", 10.0), ("slow", 30.0)):
        folder = tmp_path / "cells" / "t" / name / "0"
        folder.mkdir(parents=True)
        (folder / "timing.json").write_text(json.dumps({"seconds/cell": took}))
    live.tell(cell("quick", 0), todo, 4, new=False)  # of an earlier session: it tells no pace
    told = json.loads((tmp_path / "progress.json").read_text())
    assert (told["done"], told["total"], told["left"]) == (1, 4, None)
    now[0] = 15.0  # two at once: 30 seconds' work in 15
    live.tell(cell("slow", 0), todo, 4, new=True)
    assert json.loads((tmp_path / "progress.json").read_text())["left"] == pytest.approx((10 + 30) / 2)


def test_a_run_that_is_still_to_come_is_none_that_failed() -> None:
    todo = [planned(name, seed) for seed in range(2) for name in ("a", "b")]
    one, two, three = cell("a", 0), cell("b", 0), cell("a", 1)
    assert _comparable([one], todo) == [one]
    assert _comparable([one, two, three], todo) == [one, two]  # b's second seed is not there yet


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (80, "80 s"), (100, "2 min"), (4000, "67 min"), (9000, "2 h")]
)
def test_how_long(seconds: float, said: str) -> None:
    assert about(seconds) == f"about {said}"


def test_a_report_on_the_way_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr("alignzoo.compare.running.write_report", lambda folder, **told: written.append(told))
    monkeypatch.setattr("alignzoo.compare.live.EARLIEST", 0.0)
    final = alignzoo.compare("climb", "climb[optimizer.rate=3.0]", **{**CLIMB, "seeds": 1, "out": tmp_path / "out"})
    assert final.pairs and set(written[-1]) == {"registry"}
    (so_far,) = written[:-1]  # the first algorithm has ended then, and the second not
    assert so_far["results"].pairs == so_far["results"].headlines == so_far["results"].win_rates == ()
    assert so_far["going_on"].startswith("4 of 5 runs have ended, about ")
    assert {each.algorithm for each in so_far["results"].standings} >= {"start", "climb"}
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["done"] == 5
