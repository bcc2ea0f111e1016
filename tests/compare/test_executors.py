"""Cells on other machines: a real Ray cluster of several nodes, and submitit's stand-in for Slurm."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import alignzoo
from alignzoo.compare.cell import finished
from alignzoo.compare.executors import executor_of
from alignzoo.compare.plan import read_cell
from alignzoo.compare.results import CellResult

from .conftest import Compare


@pytest.fixture
def nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster: a head that runs nothing, and two nodes of one core each."""
    ray = pytest.importorskip("ray", reason="the package ray is not installed: pip install 'alignzoo[ray]'")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def at_work(node: Any) -> bool:
    """Whether a cell is running there."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("_on_node" in " ".join(each.cmdline()) for each in raylet.children())


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_gives_the_local_results(
    compare: Compare, tmp_path: Path, nodes: tuple[Any, list[Any]]
) -> None:
    cluster, workers = nodes
    ended: list[str] = []

    def tell(cell: CellResult, done: int, total: int) -> None:
        """When the first cell has ended, a node dies with another."""
        ended.append(cell.id)
        if len(ended) == 1:
            soon = time.monotonic() + 300
            while not (busy := [node for node in workers if at_work(node)]):
                assert time.monotonic() < soon, "no node has taken another cell"
            cluster.remove_node(busy[-1], allow_graceful=False)

    on_ray = compare("climb", seeds=1, out=tmp_path / "ray", executor=executor_of("ray", 1), progress=tell)
    assert len(cluster.list_all_nodes()) == 2 and len(ended) == 4
    assert on_ray == compare("climb", seeds=1, out=tmp_path / "local")
    for file in ("results.json", "cells/numbers/climb/seed-0/answers.jsonl"):
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()


@pytest.mark.slow
def test_jobs_of_slurm_leave_what_local_processes_leave_and_a_lost_one_is_told(
    compare: Compare, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="the package submitit is not installed: pip install 'alignzoo[slurm]'")
    from alignzoo.compare.on_slurm import Slurm

    compare("climb", "dies", seeds=1)
    here, there = tmp_path / "out" / "cells", tmp_path / "slurm" / "cells"
    cells = [read_cell(here / "numbers" / name / "seed-0") for name in ("climb", "dies")]
    for cell in cells:
        cell.write(there / cell.id)
    told = {each.id: each.error for each in Slurm(2, {"timeout_min": 5}, "local").run(cells, there)}
    assert told[cells[0].id] == ""
    assert "ended without a result" in told[cells[1].id]
    assert finished(there / cells[1].id) is None
    assert finished(there / cells[0].id) == finished(here / cells[0].id)


def test_executors_by_name(monkeypatch: pytest.MonkeyPatch, compare: Compare) -> None:
    assert executor_of("ray[num_gpus=1]", 4).options == {"num_gpus": 1}  # type: ignore[attr-defined]
    slurm: Any = executor_of("slurm[timeout_min=60,slurm_partition=gpu]", 8)
    assert (slurm.jobs, slurm.options) == (8, {"timeout_min": 60, "slurm_partition": "gpu"})
    with pytest.raises(alignzoo.RunError, match=r"no executor 'slurn'\. Did you mean 'slurm'"):
        executor_of("slurn", 1)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(alignzoo.RunError, match=rf"needs the package {package}: pip install 'alignzoo\[{name}\]'"):
            compare("climb", seeds=1, executor=executor_of(name, 1))
