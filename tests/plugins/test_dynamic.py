"""The sampler that drops groups which agree, by itself and in the loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import alignzoo
from alignzoo import Completion, Group, Prompt, RunError, Score
from alignzoo_dynamic import DynamicSampler


def group(*values: float | None) -> Group:
    completions = tuple(Completion((2 + i,), str(i)) for i in range(len(values)))
    return Group(Prompt(str(values)), (2,), completions, tuple(map(Score, values)))


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ((1.0, 0.0), True),
        ((1.0, 1.0), False),
        ((0.5, 0.5, 0.4), True),
        ((None, 1.0, 1.0), False),
        ((None, None), False),
        ((None, 0.0, 1.0), True),
    ],
)
def test_groups_that_agree_are_dropped(values: tuple[float | None, ...], kept: bool) -> None:
    given = group(*values)
    assert DynamicSampler().select([given]) == ([given] if kept else [])


SHORT: dict[str, Any] = {
    "schedule": {"steps": 2, "prompts": 4, "minibatch": 0, "samples_every": 1},
    "sampler": {"n": 4},
    "evaluate": {"prompts": 4, "best_of": 0, "greedy": False},
}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_others_are_asked_for_until_the_step_is_full(tmp_path: Path) -> None:
    calls: list[int] = []

    def every_third_prompt_differs(prompts: Sequence[str], completions: Sequence[Any], **_: Any) -> list[float]:
        calls.append(len(completions) // 4)
        differs = [sum(map(ord, str(prompt))) % 3 == 0 for prompt in prompts]
        return [float(i % 4) if d else 1.0 for i, d in enumerate(differs)]

    settings = SHORT | {"sampler": {"n": 4, "attempts": 50}}
    alignzoo.run("dapo", reward=every_third_prompt_differs, out=tmp_path / "run", **settings)
    for line in metrics(tmp_path / "run"):
        assert line["groups/chosen"] == 4 and line["rows"] == 16
        assert line["groups/brought"] > 4
        assert line["reward/mean"] == 1.5  # of (0, 1, 2, 3); those that were dropped have 1
        assert line["reward/brought"] == pytest.approx(1 + 0.5 * 4 / line["groups/brought"])
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    brought = sum(line["groups/brought"] for line in metrics(tmp_path / "run"))
    assert sum(sample["when"] == "training" for sample in samples) == 4 * brought
    # each time as many as were still missing
    assert calls[-1] <= 4 and len(calls) > 2


def test_what_was_dropped_has_been_paid_for(tmp_path: Path) -> None:
    settings = SHORT | {"sampler": {"n": 4, "attempts": 3}}
    with pytest.raises(RunError, match=r"none of its 2 steps gave a gradient, because the sampler kept none"):
        alignzoo.run("dapo", reward=lambda completions, **_: [1.0] * len(completions), out=tmp_path / "run", **settings)
    for line in metrics(tmp_path / "run"):
        assert (line["groups/brought"], line["groups/chosen"], line["rows"]) == (12, 0, 0)
        assert line["tokens/generated"] > 12 * 4 and line["tokens/trained"] == 0
        assert "loss" not in line  # nothing to learn from, and nothing changes
