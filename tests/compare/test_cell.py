"""What a cell has spent, read off its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignzoo.compare.cell import _costs


def test_costs_are_of_training_and_a_repeated_step_counts_once(tmp_path: Path) -> None:
    def write(name: str, *lines: dict[str, Any]) -> None:
        (tmp_path / "run" / f"{name}.jsonl").write_text(
            "".join(json.dumps({"stage": "rl", **line}) + "\n" for line in lines)
        )

    (tmp_path / "run").mkdir()
    write("metrics", *({"step": step, "tokens/generated": 10.0, "tokens/trained": 30.0} for step in (1, 2)))
    asked = [(0, "before", 50), (1, "step", 4), (2, "step", 6), (2, "during", 50), (2, "step", 6), (2, "after", 50)]
    write("costs", *({"step": step, "when": when, "judge/questions": n} for step, when, n in asked))
    spent = _costs(tmp_path)
    assert (spent["tokens"], spent["tokens/trained"], spent["calls"]) == (80, 60, 10)
