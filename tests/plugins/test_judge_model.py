"""Judge `model`: a reward model's scores as Bradley and Terry's probabilities."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignzoo import Context, Question
from alignzoo.lifecycle import opened
from alignzoo.testing import check_judge
from alignzoo_hf.preference import ModelJudge

TALK = ({"role": "user", "content": "how are you?"},)
PAIR = Question(TALK, ("fine", "go away"))


@pytest.fixture
def scorer(tiny_model: Path, tmp_path: Path) -> str:
    """A reward model that has not been trained, with an output that tells texts apart."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    return str(tmp_path)


def by_hand(folder: str, answer: str) -> float:
    """The score of the rendered conversation, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(f"<|user|>how are you?<|end|><|assistant|>{answer}<|end|>", add_special_tokens=False).input_ids
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.config.pad_token_id = 0
    with torch.no_grad():
        return float(model(torch.tensor([tokens])).logits)


def test_the_first_is_better_by_the_sigmoid_of_the_margin(scorer: str) -> None:
    fine, away = by_hand(scorer, "fine"), by_hand(scorer, "go away")
    assert abs(fine - away) > 0.01
    judge = ModelJudge(scorer, device="cpu", temperature=2.0)
    turned, alone = Question(TALK, PAIR.answers[::-1]), Question(TALK, ("fine",))
    first, second, one, text = judge.judge([PAIR, turned, alone, Question("how are you?", PAIR.answers)], None)
    assert first.value == pytest.approx(1 / (1 + math.exp((away - fine) / 2)), abs=1e-5)
    assert second.value == pytest.approx(1 - first.value, abs=1e-6)
    assert one.value == pytest.approx(1 / (1 + math.exp(-fine / 2)), abs=1e-5)
    assert text == first  # a text is a user's turn where the model has a template
    assert first.note == f"{fine:.4g} to {away:.4g}"


def test_it_abstains_where_there_is_a_criterion(scorer: str) -> None:
    asked = Question(TALK, PAIR.answers, "Which is kinder?")
    of_both = ModelJudge(scorer, device="cpu").judge([asked, PAIR], None)
    assert [verdict.kind for verdict in of_both] == ["abstain", "value"]
    assert of_both[0].note == "a reward model reads no criterion: 'Which is kinder?'"


def test_it_keeps_the_laws_of_judges(scorer: str) -> None:
    check_judge(ModelJudge(scorer, device="cpu"))


def test_an_answer_is_read_once_however_often_it_is_judged(scorer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    scores = ModelJudge.scores
    monkeypatch.setattr(ModelJudge, "scores", lambda self, groups: read.append(len(groups)) or scores(self, groups))
    judge = ModelJudge(scorer, device="cpu")
    with opened(judge, Context("judge")):
        first = judge.judge([PAIR, Question(TALK, PAIR.answers[::-1])], None)
        assert judge.judge([PAIR, Question(TALK, ("fine", "and you?"))], None)[0] == first[0]
        judge.judge([Question("hm", PAIR.answers)], None)
    assert read == [2, 1, 2]
