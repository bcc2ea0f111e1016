"""What a run writes as it goes: one JSON line per step and file, shared by the stages of a run.

All but seconds.jsonl are pure functions of recipe and seed: what a clock or the allocator says goes there, so that a
resumed run's metrics equal an undisturbed one's to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo import processes
from alignzoo.types import Group

FILES = ("metrics", "seconds", "samples", "evaluations", "warnings")


@dataclass(frozen=True)
class Journal:
    """A stage's lines in the run's files."""

    folder: Path
    stage: str

    def write(self, file: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line."""
        self.write_all(file, step, [values])

    def write_all(self, file: str, step: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append several lines of one step."""
        if processes.index():
            return
        text = "".join(
            json.dumps({"stage": self.stage, "step": step, **values}, ensure_ascii=False) + "\n" for values in lines
        )
        with self._path(file).open("a", encoding="utf-8") as out:
            out.write(text)

    def read(self, file: str, step: int | None = None) -> list[dict[str, Any]]:
        """This stage's lines, of one step or all."""
        return [
            {key: value for key, value in line.items() if key != "stage"}
            for line in read_lines(self._path(file))
            if line["stage"] == self.stage and step in (None, line["step"])
        ]

    def rewind(self, step: int) -> None:
        """Forget what this stage wrote after a step, and its last evaluation: a resumed run writes them again."""
        if processes.index():
            return

        def stays(line: Mapping[str, Any]) -> bool:
            return line["stage"] != self.stage or (line["step"] <= step and not _last(line))

        for file in FILES:
            _keep(self._path(file), stays)

    def _path(self, file: str) -> Path:
        return self.folder / f"{file}.jsonl"


def samples(groups: Iterable[Group], when: str) -> list[dict[str, Any]]:
    """Completions with their scores, a line each; `when` is "before", "training" or "after"."""
    return [
        {
            "when": when,
            "prompt": group.prompt.messages,
            "completion": completion.text,
            "finished": completion.finished,
            "reward": given.value,
            "parts": dict(given.parts),
            "note": given.note,
        }
        | ({"trail": dict(completion.trail)} if completion.trail else {})
        for group in groups
        for completion, given in zip(group.completions, group.scores or (), strict=True)
    ]


def _last(line: Mapping[str, Any]) -> bool:
    """Whether the line is of the evaluation after training, which has no step of its own."""
    return "after" in line or line.get("when") == "after"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; one that was cut off in the writing is no line yet."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    if not path.exists():
        return
    partial = path.with_name(f".{path.name}.partial")
    kept = [json.dumps(line, ensure_ascii=False) + "\n" for line in read_lines(path) if wanted(line)]
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
