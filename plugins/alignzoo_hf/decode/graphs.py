"""CUDA graphs of decode steps: a step's kernels recorded once for each size, and launched together from then on.

Written without a GPU at hand: what runs here is held by tests on a CPU, but for the recording itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch

log = logging.getLogger("alignzoo")


class Graphs:
    """The recorded steps of one call of the engine, whose tensors they read and write in place.

    They go when it ends, so that training has their memory. Inside one call, which is not in inference mode, autocast
    casts each trained weight once, over the prompts and so before anything is recorded, and holds the casts until it
    ends; and Python is not run again in a replay, so that what a step does may depend on its key and on tensors alone.
    """

    def __init__(self) -> None:
        self.recorded: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.seen: set[Hashable] = set()
        self.usable = True

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Take a step: as it is the first time, which also loads its kernels; recorded from the second time on."""
        if key in self.recorded:
            self.recorded[key].replay()
        elif key not in self.seen or not self.usable:
            self.seen.add(key)
            step()
        elif self._record(key, step):
            self.recorded[key].replay()  # recording does not run it
        else:
            step()

    def _record(self, key: Hashable, step: Callable[[], None]) -> bool:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.recorded.values())).pool() if self.recorded else None
        try:
            # Another thread may train meanwhile, and allocate.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                step()
        except RuntimeError as error:
            self.usable = False
            log.warning("decode steps cannot be recorded as CUDA graphs, and run more slowly without: %s", error)
            return False
        self.recorded[key] = graph
        return True
