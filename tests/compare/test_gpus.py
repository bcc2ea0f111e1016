"""The GPUs of a machine, dealt to the cells of a comparison: counted with names of GPUs that are not there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from alignzoo.compare.executors import Gpus, visible_gpus

from .conftest import PLUGIN, SMALL, Compare

SEES = """
import os
from dataclasses import dataclass

import alignzoo
from alignzoo import Score


@dataclass(frozen=True)
class Sees:
    def score(self, groups, policy):
        print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
        return [tuple(Score(float(c.text.count("5"))) for c in group.completions) for group in groups]


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("sees", Sees)
"""


def test_each_cell_has_a_gpu_of_its_own_while_there_are_enough() -> None:
    gpus = Gpus(["3", "5", "MIG-7"])
    dealt = [gpus.deal(cell)["CUDA_VISIBLE_DEVICES"] for cell in "abcd"]
    assert dealt == ["3", "5", "MIG-7", "3"]
    gpus.give_back("b")
    assert gpus.deal("e") == {"CUDA_VISIBLE_DEVICES": "5"}
    gpus.give_back("a")
    gpus.give_back("d")
    assert gpus.deal("f") == {"CUDA_VISIBLE_DEVICES": "3"}


def test_where_there_is_no_choice_nothing_is_said() -> None:
    for names in ([], ["0"]):
        gpus = Gpus(names)
        assert gpus.deal("a") == {}
        gpus.give_back("a")


def test_the_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1", "2", "3"]
    for named, expected in (("2, 6", ["2", "6"]), ("", []), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus() == expected


def test_cells_see_the_gpu_they_are_dealt(compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    plugin = tmp_path / "sees.py"
    plugin.write_text(SEES)
    compare("climb", seeds=1, jobs=2, overrides=(*SMALL, 'reward={name="sees"}'), plugins=[PLUGIN, plugin])
    seen: Counter[str] = Counter()
    for log in sorted((tmp_path / "out" / "cells").rglob("log.txt")):
        names = {line.split()[1] for line in log.read_text().splitlines() if line.startswith("sees ")}
        assert len(names) <= 1, "a cell stays where it is; controls ask no reward"
        seen.update(names)
    assert seen and seen.keys() <= {"3", "5"}
