"""What a run writes as it goes: one JSON line per step and file, shared by the stages of a run.

All but seconds.jsonl and costs.jsonl are pure functions of recipe and seed: what a clock or the allocator says goes to
seconds.jsonl, so that a resumed run's metrics equal an undisturbed one's to the byte. What was spent is spent:
costs.jsonl is never rewound.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from alignzoo import processes
from alignzoo.files import line_of, read_lines, whole_lines
from alignzoo.interfaces import HasCosts
from alignzoo.storage import for_owner, sync, write_text
from alignzoo.types import Group

GENERATED = "generated"
"""What a stage that trains nothing leaves as data, as it goes."""

FILES = ("metrics", "seconds", "samples", "evaluations", "answers", "warnings", GENERATED)
"""Those that a resumed run rewinds to its checkpoint."""
SPENT = "costs"
PRIVATE = ("samples", "answers", GENERATED)
"""They hold what the model wrote and what it was asked, and are for their owner's eyes alone, as its weights are."""
NOTHING: Mapping[str, Any] = {"lines": 0, "sha256": sha256().hexdigest()}


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
        text = "".join(line_of({"stage": self.stage, "step": step, **values}) for values in lines)
        opener = for_owner if file in PRIVATE else None
        with open(self._path(file), "a", encoding="utf-8", opener=opener) as out:
            out.write(text)

    def read(self, file: str, step: int | None = None) -> list[dict[str, Any]]:
        """This stage's lines, of one step or all."""
        return [
            {key: value for key, value in line.items() if key != "stage"}
            for line in read_lines(self._path(file))
            if line["stage"] == self.stage and step in (None, line["step"])
        ]

    def read_all(self, file: str) -> list[dict[str, Any]]:
        """The lines of all stages of the run."""
        return read_lines(self._path(file))

    def extent(self) -> dict[str, dict[str, Any]]:
        """How many lines this stage has written to each file, and their SHA-256; all that is on the disk by then."""
        if self.folder.is_dir():
            sync(self.folder)
        extent = {}
        for file in (*FILES, SPENT):
            path = self._path(file)
            if path.exists():
                sync(path)
            if file != SPENT:
                mine = self._mine(file)
                extent[file] = {"lines": len(mine), "sha256": _digest(mine)}
        return extent

    def lacks(self, extent: Mapping[str, Mapping[str, Any]]) -> str:
        """What is missing of an extent; "" where all of it is there, as it was written."""
        for file in FILES:
            wanted, path = extent.get(file, NOTHING), self._path(file)
            mine = self._mine(file)[: wanted["lines"]]
            if len(mine) < wanted["lines"]:
                return f"it counts on {wanted['lines']} lines of {path}, which has {len(mine)} of them"
            if _digest(mine) != wanted["sha256"]:
                return f"the lines of {path} that it counts on are not as they were written"
        return ""

    def check(self) -> None:
        """Raise a RunError where a line is not as a run writes it, before anything is set aside or rewound."""
        if processes.index() == 0:
            for file in (*FILES, SPENT):
                read_lines(self._path(file), "stage", "step")

    def rewind(self, extent: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Forget what this stage wrote beyond an extent, all of it without one: a resumed run writes it again."""
        if processes.index():
            return
        for file in FILES:
            path, left = self._path(file), (extent or {}).get(file, NOTHING)["lines"]
            if not path.exists():
                continue
            kept = []
            for line in whole_lines(path):
                mine = line.startswith(self._prefix)
                left -= mine
                if not mine or left >= 0:
                    kept.append(line.decode() + "\n")
            write_text(path, "".join(kept), private=file in PRIVATE)
        spent = self._path(SPENT)
        if spent.exists() and not spent.read_bytes().endswith(b"\n"):  # nothing may be appended to a torn line
            write_text(spent, "".join(line.decode() + "\n" for line in whole_lines(spent)))

    def _mine(self, file: str) -> list[bytes]:
        path = self._path(file)
        return [line for line in whole_lines(path) if line.startswith(self._prefix)] if path.exists() else []

    @property
    def _prefix(self) -> bytes:
        return f'{{"stage": {json.dumps(self.stage, ensure_ascii=False)}, '.encode()

    def _path(self, file: str) -> Path:
        return self.folder / f"{file}.jsonl"


class Ledger:
    """What a stage's parts cost, read off their counters: a line in costs.jsonl for whatever cost something.

    Used as a context: what was spent on work that an error cut off is written down, too.
    """

    def __init__(self, journal: Journal, parts: Iterable[object]) -> None:
        self.journal = journal
        self.parts = list({id(part): part for part in parts if isinstance(part, HasCosts)}.values())
        self.before = self.counters()
        self.step = 0

    def write(self, step: int, when: str, spent: Mapping[str, float] | None = None) -> dict[str, float]:
        """What was spent since the last line, or so much of it; `when` is "before", "step", "during", "after" or "cut
        off"."""
        self.step = step
        if not self.parts:
            return {}
        if spent is None:
            now = self.counters()
            mine, self.before = _grown(now, self.before), now
        else:
            mine = dict(spent)
            self.before = {name: self.before.get(name, 0.0) + value for name, value in mine.items()}
        spent = mine if when == "cut off" else processes.total(mine)  # after an error, nobody may wait for the others
        if any(spent.values()):
            self.journal.write("costs", step, {"when": when, **spent})
        return spent

    def total(self) -> dict[str, float]:
        """What the stage has cost, in all its starts."""
        total: Counter[str] = Counter()
        for line in self.journal.read("costs"):
            total.update({name: value for name, value in line.items() if name not in ("step", "when")})
        return dict(total)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *told: object) -> None:
        if kind is not None:
            self.write(self.step, "cut off")

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """What has been spent since the counters were so."""
        return _grown(self.counters(), before)

    def counters(self) -> dict[str, float]:
        """How far the parts' counters are."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part.costs())
        return dict(total)


def _grown(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in now.items()}


def samples(groups: Iterable[Group], when: str, tokens: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Completions with their scores, a line each; `when` is "before", "training", "during" (an evaluation between) or
    "after". `tokens` are further columns, for each completion in order."""
    columns = iter(tokens)
    return [
        {
            "when": when,
            "prompt": group.prompt.messages,
            "completion": completion.text,
            "finished": completion.finished,
            "reward": given.value,
            "parts": dict(given.parts),
            "note": given.note,
            **next(columns, {}),
        }
        | ({"trail": dict(completion.trail)} if completion.trail else {})
        for group in groups
        for completion, given in zip(group.completions, group.scores or (), strict=True)
    ]


def _digest(lines: Iterable[bytes]) -> str:
    return sha256(b"\n".join(lines)).hexdigest()
