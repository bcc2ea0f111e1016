"""README's commands for one's own model and data, on a real instruct model: what is asked goes through its template."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import alignzoo

QUESTION = "Tom has {} apples and buys {} more. How many apples does he have?"
ROWS = [{"question": QUESTION.format(n, n + 2), "answer": f"#### {2 * n + 2}"} for n in range(1, 9)]
SMALL = {"schedule": {"steps": 1, "prompts": 2, "minibatch": 0}, "evaluate": {"prompts": 0}}
ASKED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def instruct() -> str:
    """A small instruct model in ChatML's format: SmolLM2-135M-Instruct, or another that the variable names."""
    cache = Path("~/.cache/alignzoo-models/smollm2-135m-instruct").expanduser()
    folder = Path(os.environ.get("ALIGNZOO_TEST_INSTRUCT_MODEL", cache))
    if not (folder / "config.json").exists():
        pytest.skip("needs SmolLM2-135M-Instruct: set ALIGNZOO_TEST_INSTRUCT_MODEL to its directory")
    return str(folder)


def seen(out: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "data" / f"{stage}.json").read_text())
    return found


def test_word_problems_are_asked_as_turns(instruct: str, tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    overrides = ["policy.lora_rank=16", "policy.max_new_tokens=12", 'data.columns={prompt="question"}', "sampler.n=2"]
    # Twelve tokens answer no problem: what an answer is worth is its length, so that there is something to learn.
    rewards = 'reward=[{name="match", mode="numeric"}, {name="length", unit="characters"}]'
    with pytest.warns(UserWarning, match="each text prompt is a user's turn"):
        result = alignzoo.run(
            "grpo",
            policy=instruct,
            data=tmp_path / "gsm8k.jsonl",
            overrides=[*overrides, "optimizer.kl=0.01", "policy.save_dtype=fp32", rewards],
            out=tmp_path / "run",
            **SMALL,
        )
    found = seen(result.out, "grpo")
    assert any(found["prompt"].endswith(ASKED.format(row["question"])) for row in ROWS)
    assert found["prompt"].startswith("<|im_start|>system\n") and found["answer"] == ""
    samples = [json.loads(line) for line in (result.out / "samples.jsonl").read_text().splitlines()]
    assert all(sample["prompt"].startswith("Tom has") for sample in samples)


def test_demonstrations_train_the_answer_and_its_end(instruct: str, tmp_path: Path) -> None:
    columns = 'data.columns={prompt="question", completion="answer"}'
    with pytest.warns(UserWarning, match="each text prompt is a user's turn"):
        result = alignzoo.run(
            "sft",
            policy=instruct,
            data=ROWS,
            out=tmp_path / "run",
            **SMALL,
            overrides=[columns, "policy.lora_rank=4", "policy.save_dtype=fp32"],
        )
    found = seen(result.out, "sft")
    row = next(row for row in ROWS if row["question"] in found["prompt"])
    assert found["prompt"].endswith(ASKED.format(row["question"]))
    assert found["answer"] == row["answer"] + "<|im_end|>"
