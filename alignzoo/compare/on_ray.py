"""Cells on a Ray cluster: `pip install 'alignzoo[ray]'`, and RAY_ADDRESS or a running cluster.

A cell runs in a worker process of its own on any node, in a folder of that node's, and its files travel back: nodes
need share no file system, but must have alignzoo and the plugins. A cell whose node is lost is started again elsewhere.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.compare.cell import Ended, run_cell
from alignzoo.compare.plan import Cell, cell_from
from alignzoo.errors import RunError

RESTARTS = 3
"""How often a cell is started again whose process or node was lost."""


@dataclass(frozen=True)
class Ray:
    """A Ray cluster; a local one where none is running."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """What a cell asks of its node, as `ray.remote` has it: {"num_gpus": 1}."""

    def run(self, cells: Sequence[Cell], folder: Path) -> Iterator[Ended]:
        if not cells:
            return
        try:
            import ray
        except ImportError as error:
            raise RunError("the executor 'ray' needs the package ray: pip install 'alignzoo[ray]'") from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        asked = {"num_cpus": 1, **self.options}
        remote = ray.remote(max_calls=1, max_retries=RESTARTS, **asked)(_on_node)
        running = {remote.remote(asdict(cell)): cell for cell in cells}
        try:
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                cell = running.pop(done)
                try:
                    _unpack(ray.get(done), folder / cell.id)
                    yield Ended(cell.id)
                except ray.exceptions.RayError as error:
                    yield Ended(cell.id, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        finally:
            for left in running:
                ray.cancel(left, force=True)


def _on_node(plan: dict[str, Any]) -> bytes:
    """Run a cell in a folder of this node's, and pack what it leaves there."""
    with tempfile.TemporaryDirectory(prefix="alignzoo-") as scratch:
        folder = Path(scratch)
        cell_from(plan).write(folder)
        run_cell(folder)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
        return packed.getvalue()


def _unpack(packed: bytes, folder: Path) -> None:
    """Into the comparison's folder; cell.json last, for it says that the cell is finished."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for each in sorted(archive.infolist(), key=lambda each: each.filename == "cell.json"):
            path = Path(archive.extract(each, folder))
            path.chmod(each.external_attr >> 16 & 0o777)  # what a model said stays for its owner's eyes alone
