"""How a side takes its turns: it waits for a line on its standard input, works one step, and tells what it took.

Only the standard library: this file also runs in the environment of an old peer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any


class Turns:
    """The side's end of the pipe. Whatever libraries print goes to the standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._mark = (0.0, 0.0, 0.0)

    def tell(self, **facts: Any) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()

    def wait(self) -> None:
        """Until the next step is asked for. "end" ends the process, with its peak memory as the last word."""
        if sys.stdin.readline().strip() != "step":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self.tell(peak=usage.ru_maxrss * 1024)
            os._exit(0)
        self._mark = self._clocks()

    def done(self, **facts: Any) -> None:
        """The step is finished."""
        cpu, system, wall = (now - then for now, then in zip(self._clocks(), self._mark, strict=True))
        self.tell(cpu=cpu, system=system, wall=wall, **facts)

    def _clocks(self) -> tuple[float, float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime, usage.ru_stime, time.perf_counter()


def distinct(completions: list[str], **_: Any) -> list[float]:
    """The reward of every rollout here: the share of different words, which is hardly ever tied."""
    return [len(set(text.split())) / max(1, len(text.split())) + 0.001 * len(text.split()) for text in completions]
