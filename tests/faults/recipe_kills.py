"""`python -m tests.faults.recipe_kills --kills 100`: runs of every recipe, killed at changes to the file system and
resumed; each must equal, byte for byte, the run that was left alone.

The recipes are those of the registry, so a new one joins by itself; beside them a teacher's optimizer, and a reference
that moves. Steps and answers are few. It takes about half an hour of one processor, so it is run by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("ALIGNZOO_REFERENCES", "off")

import torch

from alignzoo.recipe import Recipe, load
from alignzoo.registry import Registry
from alignzoo.runs import api
from alignzoo_process.steps import Steps
from faults.toy import CHANGES, EXIT, WRITES, bytes_of

MOVES = '''"""DPO whose reference follows the policy."""
from collections.abc import Mapping
from dataclasses import dataclass

import alignzoo
from alignzoo_preference.dpo import DPO


@dataclass(frozen=True)
class Moving(DPO):
    """DPO with a moving reference."""

    def follow(self, step: int) -> Mapping[str, float]:
        return {"ref": 0.5}


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer("moving-dpo", Moving)
'''
MORE = {"gkd": ["optimizer.teacher=task:policy", "policy.model=task:base"], "moving-dpo": []}
"""Optimizers with other policies beside the trained one, or a reference that moves."""

STEPS = [
    {
        "prompt": f"add {n} and {n}",
        "completions": [f"{n} + {n}", f"that is {2 * n + n % 2}"],
        "labels": [True, not n % 2],
    }
    for n in range(12)
]
"""Solutions in labelled steps, which no embedded task has."""

NEVER = 1 << 60


@dataclass
class Ended:
    """What became of a start."""

    code: int
    events: int
    """Changes to the file system."""
    said: str


@dataclass
class Tally:
    kills: int = 0
    runs: int = 0
    short: list[str] = field(default_factory=list)


def forked(work: Callable[[], object], event: int = NEVER) -> Ended:
    """Do it in a process that dies at its so-manieth change to the file system."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        with os.fdopen(reads) as pipe:
            events, _, said = pipe.read().partition("\n")
        return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(events or 0), said)
    seen = 0

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        opened = name == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (name in CHANGES or opened) and not str(arguments[0]).startswith(("/dev", "/proc")):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    code, said = 0, ""
    try:
        warnings.simplefilter("ignore")
        sys.addaudithook(hook)
        work()
    except BaseException as error:
        code, said = 1, f"{type(error).__name__}: {error}"
    os.write(writes, f"{seen}\n{said}"[:4000].encode())
    EXIT(code)


def takes_steps(name: str, registry: Registry) -> bool:
    """Whether a recipe's data are solutions in steps."""
    return name in registry.names("recipe") and isinstance(load(name, registry=registry).stages[0].sampler, Steps)


def small(name: str, registry: Registry, more: list[str]) -> Recipe:
    """The recipe with few steps, prompts and tokens; what people would answer, the task's reward does."""
    stages = load(name, more, registry=registry).stages
    settings = ["policy.max_new_tokens=8", *more]
    for stage in stages:
        steps = 3 if stage is stages[-1] else 2
        settings += [f"{stage.name}.schedule.{each}" for each in (f"steps={steps}", "epochs=1", "prompts=3")]
        settings += [f"{stage.name}.schedule.{each}" for each in ("save_every=1", "samples_every=1", "keep=1")]
        settings += [f"{stage.name}.schedule.minibatch=0", f"{stage.name}.evaluate.prompts=2"]
        settings += [f"{stage.name}.evaluate.best_of=0"]
        if any(getattr(reward.source, "store", None) is not None for reward in stage.rewards):
            settings += [f"{stage.name}.reward=task"]
    settings += [f"{stages[-1].name}.schedule.eval_every=1"]
    return load(name, settings, registry=registry)


def bytes_that_count(folder: Path) -> dict[str, str]:
    """The digest of every file but those that hold times, and what a stage has spent in all its starts."""
    found = {name: digest for name, digest in bytes_of(folder).items() if not name.endswith("state.json")}
    result = json.loads((folder / "result.json").read_text())
    for stage in result["stages"]:
        stage.pop("costs")
    return found | {"result.json": json.dumps(result)}


def killed(
    name: str, recipe: Recipe, registry: Registry, kills: int, rng: random.Random, folder: Path, tally: Tally
) -> None:
    """The recipe, left alone, and killed so many times."""

    def start(out: Path) -> Callable[[], object]:
        quiet: dict[str, Any] = {"curves": False, "ask": False, "warn": lambda *told: None}
        return lambda: api.execute(recipe, registry, out=out, resume=(out / "manifest.json").exists(), **quiet)

    alone = folder / "alone"
    began = time.time()
    whole = forked(start(alone))
    if whole.code:
        tally.short.append(f"{name}: does not run: {whole.said}")
        print(tally.short[-1], flush=True)
        return
    expected, n = bytes_that_count(alone), 0
    while n < kills:
        out, events = folder / f"{name}-{n}", []
        for _ in range(rng.choice((1, 1, 2))):
            events.append(rng.randint(1, whole.events if not events else max(2, whole.events // 2)))
            died = forked(start(out), events[-1]).code == -signal.SIGKILL
            tally.kills += died
            n += died
            if not died:
                break
        ended = forked(start(out))
        tally.runs += 1
        got = bytes_that_count(out) if not ended.code else {}
        differing = sorted(each for each in got.keys() | expected.keys() if got.get(each) != expected.get(each))
        if ended.code or differing:
            tally.short.append(f"{name}: killed at {events} of {whole.events}: {ended.said or differing}")
            print("  " + tally.short[-1], flush=True)
        shutil.rmtree(out, ignore_errors=True)
    print(f"{name}: {whole.events} events, {n} kills, {time.time() - began:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.recipe_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many at least, of all recipes together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="RECIPE")
    given = parser.parse_args()
    os.fsync = lambda descriptor: None  # processes are killed here, and no machine
    torch.set_num_threads(1)
    rng, tally = random.Random(given.seed), Tally()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        (Path(scratch) / "moves.py").write_text(MOVES)
        registry = Registry()
        registry.add_file(Path(scratch) / "moves.py")
        registry.load_all()
        steps = Path(scratch) / "steps.jsonl"
        steps.write_text("".join(json.dumps(row) + "\n" for row in STEPS))
        names = given.only or [*registry.names("recipe"), *MORE]
        for name in names:
            folder = Path(scratch) / name
            folder.mkdir()
            more = MORE.get(name, [f"data.path={steps}", "data.format=stepwise"] if takes_steps(name, registry) else [])
            recipe = small(name, registry, more)
            killed(name, recipe, registry, -(-given.kills // len(names)), rng, folder, tally)
            shutil.rmtree(folder)
    print(f"{len(names)} recipes, {tally.kills} kills, {tally.runs} resumed runs, {len(tally.short)} fall short")
    return bool(tally.short)


if __name__ == "__main__":
    sys.exit(main())
