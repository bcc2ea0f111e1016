"""A comparison of milliseconds: the toy plugin's algorithms on its task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo.compare import Results

PLUGIN = Path(__file__).with_name("toy_plugin.py")
SMALL = (
    "policy=toy",
    "schedule.steps=4",
    "schedule.prompts=4",
    "schedule.minibatch=0",
    "schedule.lr=0.05",
    "sampler.n=4",
)
CLIMB = {"seeds": 2, "prompts": 12, "task": "numbers", "overrides": SMALL, "plugins": [PLUGIN]}

Compare = Callable[..., Results]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`alignzoo.compare` with small settings, into `out`; its pictures, the dearest part, only if asked for."""

    def run(*names: str, report: bool = False, **settings: Any) -> Results:
        if not report:
            monkeypatch.setattr("alignzoo.compare.running.write_report", lambda *folder, **registry: None)
        return alignzoo.compare(*names, **{**CLIMB, "out": tmp_path / "out", **settings})

    return run
