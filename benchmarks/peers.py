"""Two or more systems side by side: each in a process of its own, one step in turn, so that what else the machine
does meets them alike. Figures are CPU seconds, medians of steps; the first step is a warm-up.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignzoo.registry import Registry

SIDES = Path(__file__).parent / "sides"
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": "67108864"}
"""glibc keeps freed memory, instead of giving large blocks back and taking them page by page again."""
OLD = "ALIGNZOO_TRL112_PYTHON"
"""The variable that names the Python of an environment with TRL 1.12."""
ONLINE = ("grpo", "rloo", "ppo")
SCREENED, LONG, CLOSE = 2, 10.0, 0.9
"""After so many timed steps, or a first step of so many CPU seconds, a peer's setting that is slower than this share of
the best one is timed no further."""


@dataclass(frozen=True)
class System:
    """One system in one setting."""

    name: str
    script: str
    variant: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable


def systems(method: str, *, full: bool) -> list[System]:
    """Ourselves first, then the peer: at its defaults, tuned, and with the allocator's settings."""
    ours = System("alignzoo", "ours.py")
    if method == "ppo":
        python = os.environ.get(OLD, "")
        peers = [System("TRL 1.12", "trl_ppo.py", python=python)]
        peers += [System("TRL 1.12 malloc", "trl_ppo.py", env=MALLOC, python=python)] if full else []
        return [ours, *peers]
    peers = [System("TRL", "trl_now.py")]
    if method == "dpo":
        peers += [System("TRL precompute", "trl_now.py", "precompute")]
        peers += [System("TRL precompute malloc", "trl_now.py", "precompute", MALLOC)] if full else []
    elif full:
        peers += [System("TRL malloc", "trl_now.py", env=MALLOC)]
    return [ours, *peers]


class Side:
    """A running system."""

    def __init__(self, system: System, method: str, folder: Path, scratch: Path, core: int | None = None) -> None:
        """On a core of its own, where one is named."""
        self.system = system
        self.steps: list[dict[str, Any]] = []
        self.peak = 0.0
        self._log = (scratch / f"{method}-{system.name}.log").open("w")
        out = scratch / f"{method}-{system.name}"
        self._process = subprocess.Popen(
            [system.python, str(SIDES / system.script), method, str(folder), str(out), system.variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(system.env),
            text=True,
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.flush()
            said = Path(self._log.name).read_text()[-2000:]
            raise RuntimeError(f"{self.system.name} ended before its time:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _say(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._read()

    def ready(self) -> None:
        self._read()

    def told(self) -> dict[str, Any]:
        """The one answer of a side that takes no steps."""
        answer = self._read()
        self.close()
        return answer

    def step(self) -> dict[str, Any]:
        self.steps.append(self._say("step"))
        return self.steps[-1]

    def end(self) -> None:
        self.peak = self._say("end")["peak"]
        self.close()

    def close(self) -> None:
        """Stop it, if it has not ended, and let go of its pipes."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def rate(self) -> float:
        """Tokens per CPU second, the median of the steps after the first, where there are any."""
        return statistics.median(step["tokens"] / step["cpu"] for step in self.steps[1:] or self.steps)

    def is_known(self) -> bool:
        """Whether enough of it has been seen to compare it with other settings of the same system."""
        return len(self.steps) > SCREENED or self.steps[0]["cpu"] > LONG

    def figures(self) -> dict[str, Any]:
        """Medians over all steps but the first; of a setting that was given up after it, over that."""
        timed = self.steps[1:] or self.steps
        rates = [step["tokens"] / step["cpu"] for step in timed]
        return {
            "cpu_seconds": statistics.median(step["cpu"] for step in timed),
            "wall_seconds": statistics.median(step["wall"] for step in timed),
            "system_share": statistics.median(step["system"] / step["cpu"] for step in timed),
            "tokens_per_cpu_second": statistics.median(rates),
            "rates": rates,
            "tokens": statistics.mean(step["tokens"] for step in timed),
            "peak_bytes": self.peak,
            "steps": len(self.steps) - 1,
        } | ({"phases": _phases(timed)} if "phases" in timed[0] else {})


def _phases(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(step["phases"][name] for step in steps) for name in steps[0]["phases"]}


def check_logprobs(folder: Path, scratch: Path, others: Sequence[System]) -> None:
    """Every system gives the same log-probabilities to the same texts."""
    told = {}
    distinct = {(system.script, system.python): system for system in others}  # settings do not change what is computed
    for system in (System("alignzoo", "ours.py"), *distinct.values()):
        told[system.name] = Side(system, "logprobs", folder, scratch).told()["logprobs"]
    mine = told.pop("alignzoo")
    for name, theirs in told.items():
        away = max(abs(a - b) / abs(b) for a, b in zip(mine, theirs, strict=True))
        if away > 1e-5:
            raise AssertionError(f"log-probabilities differ from {name}'s by {away:.1e}")


AWAY = 1e-3
"""How far the losses and gradient norms of two systems may be apart in float32, as a share."""


def check_first(sides: Sequence[Side], away: float = AWAY) -> None:
    """The first step of each has the same loss and gradient norm."""
    ours = sides[0].steps[0]
    for side in sides[1:]:
        for name in ("loss", "grad_norm"):
            mine, theirs = ours[name], float(side.steps[0][name])
            if abs(mine - theirs) > away * abs(theirs) + 1e-4:
                raise AssertionError(f"{name}: {mine} here, {theirs} by {side.system.name}")


def start(sides: list[Side], folder: Path, method: str, chosen: Sequence[System], core: int | None = None) -> None:
    """Start the systems one after another, so that none works while another imports."""
    for system in chosen:
        sides.append(Side(system, method, folder, folder, core))
        sides[-1].ready()


@contextmanager
def running(method: str, folder: Path, *, full: bool, core: int | None = None) -> Iterator[list[Side]]:
    """Every system of a comparison, started and checked against one another; ourselves first."""
    chosen = systems(method, full=full)
    if method in ONLINE:
        check_logprobs(folder, folder, chosen[1:])
    sides: list[Side] = []
    try:
        start(sides, folder, method, chosen, core)
        for side in sides:
            side.step()
        if method not in ONLINE:
            check_first(sides)
        yield sides
    finally:
        for side in sides:
            side.close()


def in_contention(sides: Sequence[Side]) -> list[Side]:
    """Ourselves, and the peers that may still turn out to be the fastest: the others need not be timed on."""
    ours, *others = sides
    if not all(side.is_known() for side in others):
        return list(sides)
    best = max(side.rate() for side in others)
    return [ours, *(side for side in others if side.rate() >= CLOSE * best)]


def missing(method: str) -> str:
    """Why a comparison cannot be made here; empty if it can."""
    if not Registry().has("optimizer", method):
        return f"there is no plugin {method!r}"
    if method != "ppo":
        return "" if find_spec("trl") else "TRL is not installed: pip install trl==1.16.0 datasets"
    python = os.environ.get(OLD, "")
    if not python:
        return f"TRL's PPO ended with 1.12: set {OLD} to the Python of an environment that has it (docs/speed.md)"
    tried = subprocess.run([python, "-c", "import trl.experimental.ppo"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()[-300:] if tried.returncode else ""
