"""Cells as jobs of a Slurm array: `pip install 'alignzoo[slurm]'`, on a file system that the nodes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.compare.cell import Ended, run_cell
from alignzoo.compare.plan import Cell
from alignzoo.errors import RunError


@dataclass(frozen=True)
class Slurm:
    """An array of jobs through submitit."""

    jobs: int = 64
    """How many at once."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """As submitit has them: {"timeout_min": 120, "slurm_partition": "gpu", "gpus_per_node": 1}."""
    cluster: str = "slurm"
    """"local" and "debug" are submitit's own stand-ins for it."""

    def run(self, cells: Sequence[Cell], folder: Path) -> Iterator[Ended]:
        if not cells:
            return
        try:
            import submitit
        except ImportError as error:
            raise RunError("the executor 'slurm' needs the package submitit: pip install 'alignzoo[slurm]'") from error
        executor = submitit.AutoExecutor(folder.parent / "slurm", cluster=self.cluster)
        executor.update_parameters(**{"slurm_array_parallelism": self.jobs, **self.options})
        submitted = executor.map_array(run_cell, [(folder / cell.id).resolve() for cell in cells])
        waiting = dict(zip(submitted, cells, strict=True))
        try:
            for job in submitit.helpers.as_completed(submitted, poll_frequency=2):
                lost = job.exception()
                told = "" if lost is None else f"its job {job.job_id} ended without a result: {str(lost)[-500:]}"
                yield Ended(waiting.pop(job).id, told)
        finally:
            for job in waiting:
                job.cancel()
