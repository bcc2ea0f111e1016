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
    own = {"tokens/generated": 10.0, "tokens/trained": 30.0, "completions": 8.0, "groups": 2.0}
    given = {"step": 3, "tokens/generated": 0.0, "tokens/trained": 0.0, "completions": 4.0, "groups": 2.0}
    write("metrics", *({"step": step, **own} for step in (1, 2)), given)
    asked = [(0, "before", 50), (1, "step", 4), (2, "step", 6), (2, "during", 50), (2, "step", 6), (2, "after", 50)]
    write(
        "costs",
        *({"step": step, "when": when, "judge/questions": n, "judge/tokens": 100 * n} for step, when, n in asked),
    )
    spent = _costs(tmp_path)
    assert (spent["tokens"], spent["tokens/trained"], spent["calls"], spent["judge/tokens"]) == (80, 60, 10, 1000)
    assert (spent["rewards"], spent["labels"]) == (16, 2)
