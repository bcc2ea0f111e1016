"""docs/human-feedback.md does what it says: its commands run, with a program in the place of the rater."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import printed
from scripted_rater import Rater

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

PAGE = (printed.ROOT / "docs" / "human-feedback.md").read_text(encoding="utf-8")
SHORT = "schedule.steps=1 schedule.prompts=2 evaluate.prompts=1 policy.max_new_tokens=4"
"""What keeps the training of this test short; all else is as printed."""


def words_of(block: str) -> list[list[str]]:
    """The commands of a block, by their words without `alignzoo`."""
    (found,) = (each for each in printed.blocks(PAGE) if each.title == block)
    return [shlex.split(command.text.replace("\\\n", " "))[1:] for command in printed.commands(found)]


def rate(words: list[str], folder: Path) -> int:
    """Start the page, answer everything, end it by Ctrl-C; how much was answered."""
    code = "from alignzoo.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    link = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
    rater = Rater(link, lambda question: [1 + place for place in range(len(question["answers"]))])
    done = 0
    while not (question := rater.next()).get("done"):
        assert question["kind"] == "ranking"
        reasons = {"all": {"text": "so it is", "criteria": {"polite": 1}}}
        assert rater.vote(question, rater.verdict(question), reasons=reasons)[0] == 200
        done += 1
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and f"{done} votes are stored" in said
    return done


@pytest.mark.filterwarnings("ignore:the model has a chat template")
def test_from_a_model_to_an_aligned_model(
    alignzoo: Any, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(tiny_model, "MODEL")
    rows = [{"prompt": f"Say {number}"} for number in range(8)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (collect,), (label,) = words_of("collect"), words_of("label")
    said = alignzoo(*collect)
    assert said.code == 0, said.err
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert len(answers) == 8 and all(len(row["completions"]) == 4 for row in answers)
    temperatures = [origin["temperature"] for row in answers for origin in row["origins"]]
    assert {temperatures.count(t) for t in (0.7, 1.0, 1.3)} == {10, 11}  # 32 answers take turns
    assert rate(label, tmp_path) == 8
    for words in [*words_of("export"), *words_of("train"), *words_of("soft")]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "left out")  # a random model's empty answer, which a pair cannot hold
            said = alignzoo(*words, *(SHORT.split() if words[0] == "run" else []))
        assert said.code == 0, f"{words}: {said.err}"
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert len(pairs) <= 8 * 6 and "so it is" in pairs[0]["reasons"]
    assert all(row["confidence"] == 1 for row in map(json.loads, Path("soft.jsonl").read_text().splitlines()))
    assert (tmp_path / "runs/aligned/models/ppo/config.json").exists()
    said = alignzoo("label", "status", "answers.labels.sqlite")
    assert said.code == 0 and "8 of 8 questions" in said.out
    assert all(f"temperature {t}: preferred to others' answers in" in said.out for t in (0.7, 1.0, 1.3))
    Path("others.jsonl").write_text(Path("prompts.jsonl").read_text())
    both, *_ = words_of("compare")
    said = alignzoo(*both)
    assert said.code == 0, said.err
    models = [
        origin["model"]
        for line in Path("both.jsonl").read_text().splitlines()
        for origin in json.loads(line)["origins"]
    ]
    assert models == ["MODEL", "runs/aligned/models/ppo"] * 8
