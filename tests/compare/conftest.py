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
def compare(tmp_path: Path) -> Compare:
    """`alignzoo.compare` with small settings, into `out`."""

    def run(*names: str, **settings: Any) -> Results:
        return alignzoo.compare(*names, **{**CLIMB, "out": tmp_path / "out", **settings})

    return run
