"""A run of milliseconds through the whole of `alignzoo.run`, in this process or in a forked one that is killed."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignzoo.recipe import Recipe, load
from alignzoo.registry import Registry
from alignzoo.runs import api
from alignzoo.runs.api import Result

PLUGIN = Path(__file__).parents[1] / "compare" / "toy_plugin.py"
SMALL = {
    "policy": "toy",
    "sampler.n": 2,
    "evaluate.prompts": 1,
    "evaluate.n": 1,
    "schedule.steps": 3,
    "schedule.prompts": 2,
    "schedule.minibatch": 0,
    "schedule.lr": 0.05,
    "schedule.save_every": 1,
    "schedule.samples_every": 1,
}
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR


@functools.cache
def registry() -> Registry:
    zoo = Registry()
    zoo.add_file(PLUGIN)
    zoo.load_all()
    return zoo


@functools.cache
def recipe(settings: tuple[tuple[str, Any], ...]) -> Recipe:
    return load("climb", {"task": "numbers", **SMALL, **dict(settings)}, registry=registry())


def run(out: Path, *, resume: bool = False, **settings: Any) -> Result:
    """Train; curves.png, the dearest part, is left out."""
    loaded = recipe(tuple(settings.items()))
    return api.execute(loaded, registry(), out=out, resume=resume, curves=False, **TOLD)


told: list[str] = []
TOLD: dict[str, Any] = {"warn": lambda stage, step, alert: told.append(alert.message)}


def killed_at(event: int, work: Callable[[], object]) -> bool:
    """Do it in a forked process that dies at its so-manieth change to the file system; whether it died."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    try:
        seen = 0

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            opened = name == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
            if (name in CHANGES or opened) and not str(arguments[0]).startswith(("/dev", "/proc")):
                seen += 1
                if seen == event:
                    EXIT(9)

        sys.addaudithook(hook)
        warnings.simplefilter("ignore")
        work()
        os._exit(0)
    except BaseException as error:
        sys.__stderr__.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


EXIT = os._exit
"""Ends the process, whatever is done there to os._exit."""

TIMED = ("seconds.jsonl", "manifest.json", ".lock", "costs.jsonl")


def bytes_of(folder: Path) -> dict[str, str]:
    """Every file's SHA-256 but of those that hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMED]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
