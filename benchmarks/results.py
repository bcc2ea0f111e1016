"""Results: rows of figures, kept as JSON beside a table in Markdown and a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peer_report
import plan_report
from machine import RESULTS, machine

Row = dict[str, Any]
Render = Callable[[list[Row], Path], str]
RENDERERS: dict[str, Render] = {
    "peers": peer_report.render,
    "plan": plan_report.render,
}


class Recorder:
    """Collects rows of several kinds. A row that is measured again replaces the former one of the same key."""

    def __init__(self, *, write: bool) -> None:
        self.write = write
        self.rows: dict[str, dict[str, Row]] = {}

    def add(self, kind: str, key: str, row: Row) -> None:
        self.rows.setdefault(kind, {})[key] = {"key": key, "machine": machine(), **row}
        if self.write:  # at once: a long run that is stopped keeps what it has
            self._keep(kind)

    def kept(self, kind: str) -> list[Row]:
        """The rows of now, and where they are written, those of before that were not measured again."""
        path = RESULTS / f"{kind}.json"
        former = json.loads(path.read_text()) if self.write and path.exists() else []
        return list(({row["key"]: row for row in former} | self.rows.get(kind, {})).values())

    def finish(self) -> None:
        for kind, rows in self.rows.items():
            if kind in RENDERERS:
                sys.stdout.write("\n" + RENDERERS[kind](list(rows.values()), Path()) + "\n")

    def _keep(self, kind: str) -> None:
        rows = self.kept(kind)
        (RESULTS / f"{kind}.json").write_text(json.dumps(rows, indent=1) + "\n")
        if kind in RENDERERS:
            (RESULTS / f"{kind}.md").write_text(RENDERERS[kind](rows, RESULTS))
