"""How a side takes its turns: it waits for a line on its standard input, works one step, and tells what it took.

Only the standard library: this file also runs in the environment of an old peer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

JOB: dict[str, Any] = {"device": "cpu", "bf16": False, "cap": 128, "n": 8, "rows": 16, "chat": "auto"}
"""What a comparison is run on and with, where its folder's job.json does not say otherwise: the tokens that a rollout
may have, completions of a prompt, rows that the peer takes at once, and whether a text is a turn of a conversation. Its
"tokens" are those of given rows, by the data's name, where they are no longer words."""


def job(folder: str | os.PathLike[str]) -> dict[str, Any]:
    path = os.path.join(folder, "job.json")
    if not os.path.exists(path):
        return JOB
    with open(path) as file:
        return JOB | json.load(file)


def given_tokens(folder: str | os.PathLike[str], kind: str) -> int:
    """The tokens of given rows, each of its prompt and its answer: the same for all sides. One that computes a prompt
    once for two answers has not done less of the work."""
    known: dict[str, int] = job(folder).get("tokens", {})
    if kind in known:
        return known[kind]
    with open(os.path.join(folder, f"{kind}.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    return sum(1 + len(row[c].split()) + len(row["prompt"].split()) for row in rows for c in row if c != "prompt")


def most_resident() -> int:
    """Peak bytes of this program. Where /proc does not tell, getrusage does, which counts the process that started it
    too: what a child had in memory between fork and exec is its parent's."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Turns:
    """The side's end of the pipe. Whatever libraries print goes to the standard error."""

    def __init__(self, accelerator: Callable[[], int] = lambda: 0) -> None:
        """`accelerator` tells the most bytes that a GPU has held; 0 where there is none."""
        self._accelerator = accelerator
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._mark = (0.0, 0.0, 0.0)

    def tell(self, **facts: Any) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()

    def wait(self) -> None:
        """Until the next step is asked for. "end" ends the process, with its peak memory as the last word."""
        if sys.stdin.readline().strip() != "step":
            self.tell(peak=self._accelerator() or most_resident())
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
