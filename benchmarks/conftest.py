"""Benchmarks: `pytest benchmarks --benchmark-only` is a quick selection on the smallest model.

`--sizes SMV` says which models, `--full` runs everything, in every setting of the peers, and `--record` writes what was
measured into benchmarks/results/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import results


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("alignzoo benchmarks")
    group.addoption("--sizes", default="S", help="the models to measure on, of S, M and V")
    group.addoption("--full", action="store_true", help="every size and every setting of the peers: hours")
    group.addoption("--record", action="store_true", help="write the results into benchmarks/results/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    sizes = config.getoption("--sizes")

    def wanted(item: pytest.Item) -> bool:
        size = getattr(item, "callspec", None) and item.callspec.params.get("size")
        return not item.get_closest_marker("slow") if not size else size in sizes

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Iterator[results.Recorder]:
    """Takes rows; at the end prints them as a table and, where asked for, keeps them."""
    recorder = results.Recorder(write=bool(request.config.getoption("--record")))
    yield recorder
    recorder.finish()
