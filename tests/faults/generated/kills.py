"""A run that is killed at changes to the file system, and resumed: the same to the byte."""

from __future__ import annotations

import random
from pathlib import Path

from faults import toy
from faults.generated import Short
from faults.generated.folders import kept, steady


def case(rng: random.Random, folder: Path) -> None:
    """Kill it up to three times."""
    out = folder / "run"

    def start() -> None:
        toy.run(out, resume=(out / "manifest.json").exists())

    events = [rng.randint(1, 80) for _ in range(rng.choice((1, 1, 2, 3)))]
    for event in events:
        toy.killed_at(event, start)
    if not (out / "result.json").exists():
        start()
    differing = sorted(name for name in kept(out).keys() | steady().keys() if kept(out).get(name) != steady().get(name))
    if differing:
        raise Short(f"killed at events {events} it differs in {', '.join(differing)}")
