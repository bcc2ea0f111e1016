"""Real input: human preferences, three annotators' votes, word problems, and a real pretrained language model.

The files lie beside the repository; where they are not there, these tests are skipped.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import alignzoo
from alignzoo import Completion, Group, RunError
from alignzoo.data import Data, read
from alignzoo.rewards import WeightedReward, score
from alignzoo_match import Match

SHARED = Path(__file__).parents[2] / "shared"
STORIES = SHARED / "models" / "stories260K"
HH = SHARED / "data" / "hh_rlhf" / "harmless-base-test.jsonl.gz"
PANDALM = SHARED / "data" / "pandalm" / "testset-v1.json"
GSM8K = SHARED / "data" / "gsm8k" / "test.jsonl"

pytestmark = [
    pytest.mark.skipif(not STORIES.is_dir(), reason=f"no real data and model at {SHARED}"),
    pytest.mark.filterwarnings("ignore:prompts longer than"),
    pytest.mark.filterwarnings("ignore:the model has a chat template"),
]

DIALOGUE = {
    "model": str(STORIES),
    "chat_template": "dialogue",
    "max_length": 256,
    "max_new_tokens": 64,
    "device": "cpu",
}
FEW = {"path": str(HH), "limit": 200}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def mean(lines: list[dict[str, Any]], name: str) -> float:
    return sum(line[name] for line in lines) / len(lines)


def test_a_reward_model_learns_from_hh(tmp_path: Path) -> None:
    schedule = {"steps": 16, "prompts": 12, "lr": 2e-3}
    result = alignzoo.run(
        "reward-model",
        policy=DIALOGUE,
        data=FEW | {"limit": 40},
        out=tmp_path / "run",
        schedule=schedule,
        evaluate={"prompts": 32},
    )
    steps = metrics(result.out)
    assert len(steps) == 16
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # the head starts at 0: a coin's toss
    assert mean(steps[-3:], "loss") < 0.5
    assert 0 <= result.after["accuracy"] <= 1
    model = AutoModelForSequenceClassification.from_pretrained(result.model)
    tokens = AutoTokenizer.from_pretrained(result.model)("Human: Hello\n\nAssistant: Hi", return_tensors="pt")
    assert math.isfinite(float(model(tokens["input_ids"]).logits[0, 0].detach()))


def test_dpo_learns_from_hh(tmp_path: Path) -> None:
    schedule = {"steps": 12, "prompts": 8, "lr": 5e-4}
    result = alignzoo.run(
        "dpo",
        policy=DIALOGUE,
        data=FEW | {"limit": 24},  # four passes: the loss of pairs that are new in every step says nothing so soon
        out=tmp_path / "run",
        schedule=schedule,
        evaluate={"prompts": 12},
    )
    steps = metrics(result.out)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert mean(steps[-4:], "loss") < math.log(2) - 0.01
    assert all(math.isfinite(value) for value in result.after.values())
    assert result.after["heldout/loss"] != result.before["heldout/loss"]
    start, trained = (AutoModelForCausalLM.from_pretrained(path) for path in (STORIES, result.model))
    assert trained.config.vocab_size == start.config.vocab_size
    assert not torch.equal(trained.lm_head.weight, start.lm_head.weight)
    assert set(trained.generation_config.eos_token_id) == {1, 2}  # this model ends its stories by beginning another


WORDS = ("happy", "fun", "smile", "love", "play", "laugh")


def cheerful(completions: list[str], **columns: Any) -> list[float]:
    return [float(min(4, sum(word in text.lower() for word in WORDS))) for text in completions]


@pytest.mark.slow
def test_grpo_makes_stories_cheerful(tmp_path: Path) -> None:
    rows = [{"prompt": "Once upon a time"}, {"prompt": "Lily was"}, {"prompt": "One day"}]
    result = alignzoo.run(
        "grpo",
        policy={"model": str(STORIES), "max_new_tokens": 32, "device": "cpu"},
        data={"path": str(_jsonl(tmp_path / "openings.jsonl", rows)), "heldout": 0.0},
        reward=cheerful,
        out=tmp_path / "run",
        sampler={"n": 8},
        optimizer={"kl": 0.05, "epochs": 2},
        schedule={"steps": 20, "prompts": 6, "lr": 5e-4, "minibatch": 3},
        evaluate={"prompts": 0},
    )
    steps = metrics(result.out)
    assert len(steps) == 20
    assert mean(steps[-3:], "reward/mean") > mean(steps[:3], "reward/mean") + 0.5
    assert mean(steps[-3:], "kl") > steps[0]["kl"] == 0


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pandalms_three_annotators_are_rankings(tmp_path: Path) -> None:
    rows = json.loads(PANDALM.read_text())
    prompts = read(Data(path=str(PANDALM)))
    assert len(prompts) == len(rows) == 999
    for row, prompt in zip(rows, prompts, strict=True):
        votes = Counter(str(row[f"annotator{i}"]) for i in (1, 2, 3))
        lead = votes["1"] - votes["2"]
        first, second = prompt.labels
        assert (first > second) == (lead > 0) and (first < second) == (lead < 0)
        assert prompt.completions == (row["response1"], row["response2"]) or len(prompt.completions) == 2
    ties = sum(len(set(prompt.labels)) == 1 for prompt in prompts)
    assert 0 < ties < 300

    policy = DIALOGUE | {"max_new_tokens": 16}
    result = alignzoo.run(
        "reward-model",
        policy=policy,
        data={"path": str(PANDALM), "limit": 40},
        out=tmp_path / "run",
        schedule={"steps": 1, "prompts": 16, "lr": 1e-3},
        evaluate={"prompts": 8},
    )
    (step,) = metrics(result.out)
    assert step["loss"] == pytest.approx(math.log(2), abs=1e-6) and step["grad_norm"] > 0


def test_gsm8k_is_scored_by_its_last_number(tmp_path: Path) -> None:
    prompts = read(Data(path=str(GSM8K), columns={"prompt": "question"}))
    assert len(prompts) == 1319
    right, wrong, given = [], [], []
    for prompt in prompts:
        answer = str(prompt.info["answer"])
        number = answer.rpartition("####")[2].strip()
        right.append(Completion((5,), f"So the answer is ${number}."))
        wrong.append(Completion((5,), f"So the answer is {float(number.replace(',', '')) + 1}."))
        given.append(Completion((5,), answer))
    rewards = [WeightedReward("match", Match(mode="numeric"))]
    nobody: Any = None
    groups = [Group(*each) for each in zip(prompts, [(1,)] * 1319, zip(right, wrong, given, strict=True), strict=True)]
    for group in score(groups, rewards, nobody):
        assert [each.value for each in group.scores or ()] == [1.0, 0.0, 1.0], group.prompt.info["answer"]


def test_a_grpo_step_on_gsm8k(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="all 4 completions got the same reward, 0"):  # this model cannot count
        alignzoo.run(
            "grpo",
            policy={"model": str(STORIES), "max_new_tokens": 8, "max_length": 200, "device": "cpu"},
            data={"path": str(GSM8K), "columns": {"prompt": "question"}, "limit": 12},
            reward={"name": "match", "mode": "numeric"},
            out=tmp_path / "run",
            sampler={"n": 2},
            schedule={"steps": 1, "prompts": 2},
            evaluate={"prompts": 2},
        )
    (before,) = map(json.loads, (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines())
    assert 0 <= before["before"]["accuracy"] <= 1
    (step,) = metrics(tmp_path / "run")
    assert step["reward/mean"] == 0 and step["tokens/generated"] > 0
