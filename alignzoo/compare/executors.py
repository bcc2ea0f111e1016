"""Where cells are run: in processes of this machine, on a Ray cluster, by Slurm. One small interface."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alignzoo.compare.cell import INTERRUPTED, Ended
from alignzoo.compare.plan import Cell, entry
from alignzoo.errors import RunError, did_you_mean


class Executor(Protocol):
    """Runs cells, each in a process of its own."""

    def run(self, cells: Sequence[Cell], folder: Path) -> Iterator[Ended]:
        """Run cells whose plan.json is in folder/ID; each is told of when it has ended, in any order.

        A cell that has come to its end has left its files in folder/ID, wherever it was run.
        """
        ...


@dataclass(frozen=True)
class Local:
    """Processes of this machine, forked from one that has imported everything."""

    jobs: int = 1
    """How many at once."""

    def __post_init__(self) -> None:
        if not isinstance(self.jobs, int) or self.jobs < 1:
            raise RunError(f"jobs: found {self.jobs!r}, allowed: an integer at least 1")

    def run(self, cells: Sequence[Cell], folder: Path) -> Iterator[Ended]:
        if not cells:
            return
        waiting = {str((folder / cell.id).resolve()): cell for cell in cells}
        queue, gpus = list(waiting), Gpus(visible_gpus())
        command = [sys.executable, "-m", "alignzoo.compare.server", json.dumps(cells[0].plugins)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(self.jobs))
        assert server.stdin is not None and server.stdout is not None
        try:
            for line in server.stdout:
                told = json.loads(line)
                if "folder" in told:
                    gpus.give_back(told["folder"])
                    status = told["status"]
                    yield Ended(waiting.pop(told["folder"]).id, _how(status), interrupted=status == INTERRUPTED)
                while queue and len(waiting) - len(queue) < self.jobs:
                    asked = {"folder": queue[0], "environment": gpus.deal(queue.pop(0))}
                    server.stdin.write(json.dumps(asked).encode() + b"\n")
                    server.stdin.flush()
                if not waiting:
                    return
            raise RunError(f"the process that starts the cells ended by itself, with status {server.wait()}")
        finally:
            server.stdin.close()  # it kills what still runs, and ends
            server.wait()
            server.stdout.close()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. None of them is opened."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class Gpus:
    """Deals the machine's GPUs to cells: each is given the one on which the fewest are running."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.held: dict[str, str] = {}

    def deal(self, cell: str) -> dict[str, str]:
        """What a cell's environment must say; nothing where there is no choice."""
        if len(self.names) < 2:
            return {}
        running = list(self.held.values())
        self.held[cell] = min(self.names, key=running.count)
        return {"CUDA_VISIBLE_DEVICES": self.held[cell]}

    def give_back(self, cell: str) -> None:
        """A cell has ended."""
        self.held.pop(cell, None)


def executor_of(text: str, jobs: int) -> Executor:
    """As the command line has it: "local", "ray", or "slurm[timeout_min=60,slurm_partition=gpu]"."""
    given = entry(text)
    options = {
        key: int(value) if value.isdigit() else value for key, _, value in (s.partition("=") for s in given.settings)
    }
    if given.name == "ray":
        from alignzoo.compare.on_ray import Ray

        return Ray(options)
    if given.name == "slurm":
        from alignzoo.compare.on_slurm import Slurm

        return Slurm(jobs, options)
    if given.name != "local" or options:
        raise RunError(f"there is no executor {text!r}. {did_you_mean(given.name, ('local', 'ray', 'slurm'))}")
    return Local(jobs)


def _environment(jobs: int) -> dict[str, str]:
    """Each cell has its share of the machine's cores."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    return {"OMP_NUM_THREADS": threads, **os.environ}


def _how(status: int) -> str:
    """What an exit status means; empty where it means nothing bad."""
    if status == 0:
        return ""
    if status > 0:
        return f"its process ended with status {status}; see its log.txt"
    name = signal.Signals(-status).name
    return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
