"""How a run's progress is told: a bar with live figures on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Told = Callable[[str, int, int, Mapping[str, float]], None]

SHOWN = {
    "reward/mean": "reward",
    "reward": "reward",
    "gold": "gold",
    "accuracy": "accuracy",
    "kl": "kl",
    "entropy": "entropy",
    "loss": "loss",
    "length": "length",
}
"""The figures that are shown live, and their names."""

EVERY = 10.0
"""Seconds between two lines in a log."""


@contextmanager
def shown_on(console: Console, *, quiet: bool) -> Iterator[Told]:
    """The callback of a run, which shows its progress on this console until the end."""
    if quiet:
        yield lambda *told: None
    elif not console.is_terminal:
        yield Lines(console)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), left)
        with Progress(*columns, TextColumn("{task.fields[figures]}"), console=console) as bars:
            bar = Bar(bars)
            yield bar
            bar.end()


class Bar:
    """A bar for each phase; phases that are over stay above it with their last figures."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.label = ""
        self.task: TaskID | None = None

    def __call__(self, label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if label != self.label:
            self.end()
            self.label, self.task = label, self.bars.add_task(label, total=total, figures="")
        if self.task is not None:
            whole = None if (done, total) == (0, 1) else total  # a phase of one piece only pulses
            self.bars.update(self.task, completed=done, total=whole, figures=told(figures))

    def end(self) -> None:
        """The passing phases leave no bar behind."""
        if self.task is not None and ":" in self.label:
            self.bars.remove_task(self.task)


class Lines:
    """Plain lines: at a phase's beginning and end, and between them not too often."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.label = ""
        self.start = self.last = 0.0

    def __call__(self, label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        now = time.monotonic()
        if label != self.label:
            self.label, self.start, self.last, self.first = label, now, now, done
        if done < total and now - self.last < EVERY:
            return
        self.last = now
        left = (now - self.start) * (total - done) / max(1, done - self.first) if done > self.first else 0.0
        remaining = f" ({left:.0f} s left)" if done < total and left else ""
        line = f"{label}  {done}/{total}{remaining}  {told(figures)}".rstrip()
        self.console.print(line, markup=False, soft_wrap=True)


def told(figures: Mapping[str, float]) -> str:
    """The figures that say how it goes."""
    named = {name: figures[key] for key, name in SHOWN.items() if key in figures}
    return "  ".join(f"{name} {value:.3g}" for name, value in named.items())
