"""The table of what was planned and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from machine import heading


def render(rows: list[dict[str, Any]], folder: Path) -> str:
    """Markdown."""
    lines = [
        "# `alignzoo plan` beside what was measured",
        "",
        "CPU seconds of a step on one core, the median of three, and the peak memory of the process.",
        "",
        "| method | model | planned s | measured s | off by | planned MB | measured MB | off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["size"] != "S", row["method"])):
        cells = [row["method"], row["size"]]
        for planned, found, unit, form in (
            (row["planned_seconds"], row["seconds"], 1, ".3f"),
            (row["planned_bytes"], row["bytes"], 1e6, ",.0f"),
        ):
            cells += [f"{planned / unit:{form}}", f"{found / unit:{form}}", f"{planned / found - 1:+.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *sorted({heading(row["machine"]) + "." for row in rows})]
    return "\n".join(lines) + "\n"
