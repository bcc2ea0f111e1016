"""Who wins, by whom, and how much of it is length: by hand, and against scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import minimize

from alignzoo import Policy, Question, RewardError, Verdict
from alignzoo.compare.answers import distinct, figures
from alignzoo.compare.winrates import RIDGE, Bout, by_gold, by_judge, length_controlled, reversed_rate, win_rate
from alignzoo.evaluation.answers import Answer


def answer(text: str, gold: float | None = None, prompt: int = 0, **more: float) -> Answer:
    words = text.split()
    return Answer(prompt, "say it", text, tuple(map(len, words)), True, False, gold=gold, **more)


def bout(a: Sequence[Answer], b: Sequence[Answer]) -> Bout:
    return Bout("shop", "a", "b", [a], [b])


def test_by_gold_then_accuracy_then_reward() -> None:
    worse, better = answer("x", 1.0, reward=9.0), answer("y", 2.0, reward=0.0)
    assert by_gold([(worse, better), (better, worse), (worse, worse)]) == [0.0, 1.0, 0.5]
    assert by_gold([(answer("x", accuracy=1.0, reward=0.0), answer("y", accuracy=0.0, reward=1.0))]) == [1.0]
    assert by_gold([(answer("x", reward=0.0), answer("y", reward=1.0))]) == [0.0]


def test_a_win_rate_by_hand() -> None:
    golds = (3, 1), (2, 2), (0, 1), (5, 1)
    found = win_rate(bout(*([answer("w", g[i]) for g in golds] for i in (0, 1))), by_gold)
    assert (found.rate, found.ties, found.inconsistent, found.n) == (0.625, 0.25, 0.0, 4)  # (1 + .5 + 0 + 1) / 4
    assert found.length_controlled == pytest.approx(0.625, abs=0.01)  # all are as long
    back = reversed_rate(found)
    assert (back.a, back.b, back.rate, back.low) == ("b", "a", 0.375, 1 - found.high)


@dataclass
class Opinion:
    """Likes the longer answer, and in doubt the first; of some it has none."""

    asked: int = 0
    broken: bool = False

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        self.asked += len(questions)
        return [self._verdict(*question.answers) for question in questions]

    def _verdict(self, a: str, b: str) -> Verdict:
        if self.broken:
            return Verdict("error", note="no connection")
        if "?" in a + b:
            return Verdict("abstain")
        return Verdict("value", 1.0 if len(a) >= len(b) else 0.0)


def test_a_judge_is_asked_in_both_orders_and_never_about_equal_texts() -> None:
    judge = Opinion()
    ours = [answer(text) for text in ("longer", "so", "same", "what ?")]
    theirs = [answer(text) for text in ("short", "no", "same", "that .")]
    found = win_rate(bout(ours, theirs), by_judge(judge))
    # "longer" wins in both orders; "so" and "no" whenever they stand first: a half each, and it turned
    assert (found.rate, found.ties, found.inconsistent) == (0.625, 0.75, 0.25)
    assert judge.asked == 6
    with pytest.raises(RewardError, match="no connection"):
        win_rate(bout(ours, theirs), by_judge(Opinion(broken=True)))


def test_what_length_explains_is_no_merit() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.normal(3.0, 10.0, 4000)
    chance = 1 / (1 + np.exp(-(0.4 + 1.5 * np.tanh(lengths / lengths.std()))))
    wins = (rng.random(4000) < chance).astype(float)
    assert length_controlled(wins, lengths) == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.025)
    assert length_controlled(1 - wins, -lengths) == pytest.approx(1 - length_controlled(wins, lengths), abs=1e-9)
    always = length_controlled(np.ones(50), np.zeros(50))
    assert 0.95 < always < 1  # bounded where one side always wins


def test_length_control_is_the_logistic_regression_that_scipy_finds() -> None:
    rng = np.random.default_rng(1)
    lengths, wins = rng.normal(0, 5, 60), rng.choice([0.0, 0.5, 1.0], 60)
    x = np.tanh(lengths / lengths.std())
    middle = x.mean()

    def loss(theta: np.ndarray) -> float:
        z = theta[0] + theta[1] * (x - middle)
        return float((np.logaddexp(0, z) - wins * z).sum() + np.array(RIDGE) / 2 @ theta**2)

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    assert length_controlled(wins, lengths) == pytest.approx(1 / (1 + math.exp(middle * best[1] - best[0])), abs=1e-5)


def test_a_length_that_always_differs_by_as_much_tells_nothing_of_equal_lengths() -> None:
    wins, same = np.r_[np.ones(240), np.zeros(60)], np.full(300, 5.0)
    nearly = same.copy()
    for changed in (1, 10, 100):  # whatever few differ by a token
        nearly[:changed] = 6.0
        assert length_controlled(wins, nearly) == pytest.approx(length_controlled(wins, same), abs=0.02)
    assert length_controlled(wins, same) == pytest.approx(0.8, abs=0.005)


def test_figures_by_hand() -> None:
    assert distinct([(1, 2, 1), (1, 2)], 1) == 2 / 5
    assert distinct([(1, 2, 1), (1, 2)], 2) == 2 / 3  # 12, 21, 12
    assert distinct([(1,)], 2) == 0.0
    answers = [
        answer("a bb", 1.0, 0, kl=0.4, kl3=0.2, entropy=1.0),
        answer("a bb ccc", 3.0, 0, kl=0.6, kl3=0.3, entropy=2.0),
        answer("a", 8.0, 1, kl=-0.4, kl3=0.1, entropy=0.0),
    ]
    found = figures(answers)
    assert found["gold"] == 5.0 and found["gold_se"] == pytest.approx(3.0)  # of the prompts' means 2 and 8
    alone = figures(answers[:2])
    assert alone["gold"] == 2.0 and not [name for name in alone if name.endswith("_se")], "one prompt has no spread"
    assert found["kl"] == pytest.approx(0.05) and found["kl/k3"] == pytest.approx(0.175)  # (.5 - .4)/2, (.25 + .1)/2
    assert found["kl/token"] == pytest.approx(0.6 / 6) and found["kl/k3/token"] == pytest.approx(0.6 / 6)
    assert found["entropy"] == pytest.approx(0.5) and found["length"] == 1.75 and found["finished"] == 1.0
