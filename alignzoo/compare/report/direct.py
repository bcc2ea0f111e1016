"""Labels that stand beside what they name, so that no legend has to be looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignzoo.compare.report.drawing import SIZE, Look
from alignzoo.compare.report.forest import shortened

HEIGHT = 0.125
"""Inches of a label's line."""

FRAME = 0.75
"""Inches of a picture above and below its axes."""

LONGEST = 24
"""Letters of a label."""


def room(labels: int) -> tuple[float, float]:
    """A panel in which so many labels can stand one below the other."""
    return SIZE[0], max(SIZE[1], FRAME + 1.15 * HEIGHT * labels)


def label_ends(axes: Any, ends: Sequence[tuple[float, str, Look]]) -> None:
    """Labels to the right of lines that end at these heights, moved apart where they would lie on each other."""
    heights = spread([_share(axes, y) for y, _, _ in ends], _line(axes))
    for (_, text, look), at in zip(ends, heights, strict=True):
        _write(axes, 1.015, at, text, look)


def label_points(axes: Any, points: Sequence[tuple[float, float, str, Look]]) -> None:
    """Labels beside points: to the right of the axes, in the order of their heights, each with a thin line to its
    point."""
    low, high = axes.get_xlim()
    heights = spread([_share(axes, y) for _, y, _, _ in points], _line(axes))
    for (x, y, text, look), at in zip(points, heights, strict=True):
        place = (x - low) / (high - low)
        axes.plot(
            [place, 1.0], [_share(axes, y), at], transform=axes.transAxes, color=look.colour, lw=0.5, alpha=0.35,
            gid=f"of-{look.number}", clip_on=False,
        )  # fmt: skip
        _write(axes, 1.015, at, text, look)
    axes.set_xlim(low, high)


def spread(wanted: Sequence[float], least: float) -> list[float]:
    """Places from 0 to 1 near the wanted ones, in their order, and so far apart at least, where there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    least = min(least, 1.0 / max(1, len(wanted) - 1))
    placed: list[float] = []
    for i in order:  # upwards, each above the one before
        placed.append(max(min(max(wanted[i], 0.0), 1.0), placed[-1] + least if placed else 0.0))
    top = 1.0
    for number in reversed(range(len(placed))):  # and down again, where the last have left the frame
        placed[number] = min(placed[number], top)
        top = placed[number] - least
    found = [0.0] * len(wanted)
    for number, i in enumerate(order):
        found[i] = placed[number]
    return found


def _share(axes: Any, y: float) -> float:
    low, high = axes.get_ylim()
    return float((y - low) / (high - low))


def _line(axes: Any) -> float:
    """A line of a label as a share of the axes' height."""
    return HEIGHT / max(0.5, float(axes.figure.get_figheight()) - FRAME)


def _write(axes: Any, x: float, y: float, text: str, look: Look) -> None:
    axes.text(
        x, y, shortened(text, LONGEST), transform=axes.transAxes, color=look.colour,
        fontsize=7.5, va="center", gid=f"of-{look.number}",
    )  # fmt: skip
