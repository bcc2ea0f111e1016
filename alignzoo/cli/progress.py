"""How a run's progress is told: a bar with live figures on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Told = Callable[[str, int, int, Mapping[str, float]], None]

SHOWN = {
    "loss": "loss",
    "heldout/loss": "held-out loss",
    "heldout/perplexity": "perplexity",
    "heldout/accuracy": "accuracy",
    "heldout/margin": "margin",
    "reward/mean": "reward",
    "reward": "reward",
    "gold": "gold",
    "accuracy": "accuracy",
    "margin": "margin",
    "reward_chosen": "chosen",
    "reward_rejected": "rejected",
    "groups/tied": "tied",
    "finished": "finished",
    "length": "length",
    "kl": "kl",
    "entropy": "entropy",
    "clip_fraction": "clipped",
    "lr": "lr",
    "grad_norm": "gradient norm",
}
"""The figures that are shown live, in this order, and their names."""

ERRORS = {"reward/mean": "reward_se", "heldout/loss": "heldout/loss_se"}
"""Figures that are shown with their standard error."""

SHARES = frozenset({"groups/tied", "finished", "clip_fraction"})
"""Shares, which are shown as percentages."""

SAMPLED = frozenset({"reward/mean", "groups/tied", "finished", "length"})
"""What a step says of completions; of given ones it is the same in all steps, or says nothing of the policy."""

SECONDS = "seconds/"
"""What the names of a step's times begin with."""

INDENT = "  "

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
        with _bars(console) as bars:
            bar = Bar(bars)
            yield bar
            bar.end()


def _bars(console: Console) -> Bars:
    """A bar with its figures below it, whole at any width."""
    from rich.console import RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Figures(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                for line in wrapped(task.fields["figures"], console.width - len(INDENT)):
                    yield Text(INDENT + line)

    left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), left)
    return Figures(*columns, console=console)


class Bar:
    """A bar for each phase; phases that are over stay above it with their last figures."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.label = ""
        self.task: TaskID | None = None

    def __call__(self, label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if label != self.label:
            self.end()
            self.label, self.task = label, self.bars.add_task(label, total=total, figures=[])
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
        first, *more = wrapped(
            [f"{label}  {done}/{total}{remaining}", *told(figures)], self.console.width - len(INDENT)
        )
        for line in (first, *(INDENT + each for each in more)):
            self.console.print(line, markup=False, soft_wrap=True)


def told(figures: Mapping[str, float]) -> list[str]:
    """The figures that say how it goes, each with its name; those of a step with its speed and its memory."""
    left_out = SAMPLED if figures.get("tokens/generated") == 0 else frozenset()
    found = []
    for key, name in SHOWN.items():
        if key in figures and key not in left_out:
            error = f" ± {figures[ERRORS[key]]:.2g}" if ERRORS.get(key) in figures else ""
            value = f"{figures[key]:.0%}" if key in SHARES else f"{figures[key]:.3g}"
            found.append(f"{name} {value}{error}")
    seconds = sum(value for name, value in figures.items() if name.startswith(SECONDS))
    if seconds and "tokens/trained" in figures:
        found.append(f"{(figures['tokens/trained'] + figures['tokens/generated']) / seconds:,.0f} tokens/s")
    return found + ([f"{figures['memory'] / 1e9:.2f} GB"] if "memory" in figures else [])


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Figures in as many lines as they take: none is broken in two."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines
