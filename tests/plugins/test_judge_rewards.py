"""Rewards by a judge: Bradley-Terry by hand, both orders, clamping, draws, errors and abstentions, the constitution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from alignzoo import Completion, Group, Policy, Prompt, Question, RecipeError, RewardError, Score, Verdict
from alignzoo import functional as fn
from alignzoo.judging import JudgedReward, ask, prefer
from alignzoo_constitution.files import load
from alignzoo_constitution.reward import Constitution
from alignzoo_judge.reward import JudgeReward
from alignzoo_tiny.judge import RulesJudge

ASKED = ({"role": "user", "content": "how are you ?"},)


@dataclass(frozen=True)
class Says:
    """A judge that is a function of the question."""

    answer: Callable[[Question], float | Verdict]
    heard: list[Question] = field(default_factory=list, compare=False)

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        self.heard.extend(questions)
        found = [self.answer(question) for question in questions]
        return [each if isinstance(each, Verdict) else Verdict("value", each, "because") for each in found]


def group(*texts: str, prompt: Any = ASKED) -> Group:
    return Group(Prompt(prompt), (0,), tuple(Completion((1,), text) for text in texts))


def values(reward: JudgedReward, *groups: Group) -> list[list[float | None]]:
    return [[score.value for score in scores] for scores in reward.score(groups, None)]  # type: ignore[attr-defined]


def later(question: Question) -> float:
    """The answer that comes later in the alphabet is better, surely."""
    first, second = question.answers
    return float(first > second)


def place(question: Question) -> float:
    """The first shown is better, whatever it says."""
    return 0.8


@pytest.mark.parametrize("settings", [{}, {"orders": "one"}, {"pairs": 3}, {"mode": "pointwise"}], ids=str)
@pytest.mark.parametrize("drawn", [0, 1])
def test_as_many_questions_are_asked_as_are_announced(settings: dict[str, Any], drawn: int) -> None:
    judge = Says(place if settings.get("mode") != "pointwise" else lambda question: 0.5)
    groups = [group("a", "b", "c", "d"), group("e", "f", "g", "h")]
    for reward in (
        JudgeReward(judge, **settings),
        Constitution(judge, constitution="zoo", principles_per_comparison=drawn, **settings),
    ):
        judge.heard.clear()
        reward.score(groups, None)  # type: ignore[arg-type]
        assert len(judge.heard) == reward.questions(prompts=2, completions=4) > 0


# --- the scores of a group --------------------------------------------------------------------------------------------


def test_a_sure_win_of_two() -> None:
    # σ(-d) = 0.1·d/2 at d = 2.128: 0.1064 on both sides
    ((a, b),) = values(JudgeReward(Says(later)), group("a", "b"))
    assert (a, b) == (pytest.approx(-1.064, abs=1e-3), pytest.approx(1.064, abs=1e-3))


def test_a_leaning_to_one_place_cancels_and_is_measured() -> None:
    judge = Says(place)
    (scores,) = JudgeReward(judge).score([group("a", "b", "c")], None)
    assert [score.value for score in scores] == pytest.approx([0.0, 0.0, 0.0])
    # (0.8 + 0.8)/2 - 0.5 = 0.3, and the winner is another one in each order
    assert all(score.parts == {"position_bias": pytest.approx(0.3), "consistent": 0.0} for score in scores)
    assert len(judge.heard) == 6
    (scores,) = JudgeReward(Says(later)).score([group("a", "b", "c")], None)
    assert scores[0].parts == {"position_bias": 0.0, "consistent": 1.0}
    assert scores[0].value < scores[1].value < scores[2].value
    assert scores[0].note == "0.00 because; 0.00 because"


def test_one_order_is_drawn_half_of_the_time_and_always_the_same() -> None:
    judge = Says(later)
    groups = [group(f"a{i}", f"b{i}") for i in range(40)]
    first = values(JudgeReward(judge, orders="one"), *groups)
    assert all(pair == pytest.approx([-1.064, 1.064], abs=1e-3) for pair in first)
    shown = [question.answers[0][0] for question in judge.heard]
    assert len(shown) == 40 and 10 < shown.count("a") < 30
    assert values(JudgeReward(judge, orders="one"), *reversed(groups)) == list(reversed(first))
    assert sorted(q.answers for q in judge.heard[40:]) == sorted(q.answers for q in judge.heard[:40])
    assert "position_bias" not in JudgeReward(judge, orders="one").score(groups[:1], None)[0][0].parts


def test_clamped_labels() -> None:
    # p = 0.6: 0.6 - σ(d) = 0.05·d at d = 0.336, for σ(0.336) = 0.5832 and 0.6 - 0.5832 = 0.0168 = 0.05·0.336
    ((a, b),) = values(JudgeReward(Says(later), clamp=(0.4, 0.6)), group("a", "b"))
    assert b - a == pytest.approx(0.336, abs=1e-3)
    with pytest.raises(ValueError, match="clamp must be"):
        JudgeReward(Says(later), clamp=(0.6, 0.4))


@pytest.mark.parametrize(("pairs", "asked"), [("all", 28), (28, 28), (7, 7), (12, 12), (3, 3)])
def test_as_many_pairs_as_wanted(pairs: Any, asked: int) -> None:
    judge = Says(later)
    reward = JudgeReward(judge, pairs=pairs, orders="one")
    texts = [f"text {i}" for i in range(8)]
    (found,) = values(reward, group(*texts))
    compared = {frozenset(question.answers) for question in judge.heard}
    assert len(judge.heard) == len(compared) == asked
    if asked >= 7:  # a chain joins them all
        assert all(value is not None for value in found)
    (again,) = values(reward, group(*reversed(texts)))
    assert again == pytest.approx(list(reversed(found)))


def test_equal_answers_are_asked_about_once_and_score_alike() -> None:
    judge = Says(later)
    ((a, b, a2),) = values(JudgeReward(judge), group("a", "b", "a"))
    assert a == a2 < b and len(judge.heard) == 2
    assert values(JudgeReward(judge), group("a", "a")) == [[0.0, 0.0]]
    assert len(judge.heard) == 2


def test_one_answer_alone_has_no_score_in_pairs() -> None:
    (score,) = JudgeReward(Says(later)).score([group("a")], None)[0]
    assert score == Score(None, note="there is nothing to compare it with")


def test_pointwise_is_what_the_judge_says() -> None:
    judge = Says(lambda question: len(question.answers[0]) / 10)
    reward = JudgeReward(judge, mode="pointwise", criterion="Is it long?")
    assert values(reward, group("abc", "", "abcde", "abc"), group("a")) == [[0.3, 0.0, 0.5, 0.3], [0.1]]
    assert len(judge.heard) == 4 and {question.criterion for question in judge.heard} == {"Is it long?"}


# --- errors and abstentions -------------------------------------------------------------------------------------------


def faulty(on: str, times: int = 99, kind: Any = "error") -> Says:
    """A judge that cannot answer about answers with this letter, so many times."""
    left = [times]

    def answer(question: Question) -> float | Verdict:
        if any(on in text for text in question.answers) and left[0]:
            left[0] -= 1
            return Verdict(kind, note="out of order")
        return later(question) if len(question.answers) == 2 else 0.5

    return Says(answer)


@pytest.mark.parametrize("mode", ["pairwise", "pointwise"])
def test_what_becomes_of_an_error_is_declared(mode: Any) -> None:
    groups = [group("a", "b", "c"), group("d", "e")]
    with pytest.raises(RewardError, match=r"could not answer \d of \d+ questions; the first: out of order"):
        values(JudgeReward(faulty("c"), mode=mode), *groups)
    dropped = JudgeReward(faulty("c"), mode=mode, on_error="drop-group").score(groups, None)
    assert [score.value for score in dropped[0]] == [None] * 3 and None not in [s.value for s in dropped[1]]
    assert dropped[0][0].note == "dropped: out of order"
    first, second = values(JudgeReward(faulty("c"), mode=mode, on_error="drop-sample"), *groups)
    assert first[2] is None and None not in first[:2] and None not in second
    with pytest.raises(RewardError, match="could not answer"):
        values(JudgeReward(faulty("c"), mode=mode, on_error="retry", attempts=2), *groups)


def test_a_question_is_asked_again_and_all_is_counted() -> None:
    reward = JudgeReward(faulty("c", times=3), on_error="retry")
    assert None not in values(reward, group("a", "b", "c"))[0]
    assert reward.costs() == {"judge/questions": 9.0, "judge/abstained": 0.0, "judge/errors": 3.0}


def test_an_abstention_leaves_a_comparison_out() -> None:
    reward = JudgeReward(faulty("c", kind="abstain"))
    (scores,) = reward.score([group("a", "b", "c")], None)
    assert scores[2] == Score(None, note="abstain out of order; abstain out of order")
    assert scores[1].value == pytest.approx(1.064, abs=1e-3)
    assert reward.costs()["judge/abstained"] == 4.0


def test_a_comparison_takes_both_orders() -> None:
    judge = Says(lambda question: Verdict("abstain") if question.answers[0] == "a" else 1.0)
    (preference,) = prefer(judge, [Question(ASKED, ("a", "b"))], None)
    assert preference.kind == "abstain" and preference.value is None
    (preference,) = prefer(Says(lambda q: 0.9 if q.answers[0] == "a" else 0.3), [Question(ASKED, ("a", "b"))], None)
    # 0.9 for a when first, 1 - 0.3 when second: 0.8; the first place got 0.9 and 0.3: a leaning of 0.1
    assert (preference.value, preference.leaning) == (pytest.approx(0.8), pytest.approx(0.1)) and preference.consistent


def test_a_judge_that_answers_something_else_is_told() -> None:
    class Short:
        def judge(self, questions: Any, policy: Any) -> Any:
            return [Verdict("value", 0.5)]

    class Numbers:
        def judge(self, questions: Any, policy: Any) -> Any:
            return [0.5 for _ in questions]

    for judge in (Short(), Numbers()):
        with pytest.raises(RewardError, match="one Verdict per question is expected"):
            ask(judge, [Question(ASKED, ("a",)), Question(ASKED, ("b",))], None)
    with pytest.raises(ValueError, match="from 0 to 1, found 2"):
        Verdict("value", 2.0)
    with pytest.raises(ValueError, match="kind 'error' with the value 1"):
        Verdict("error", 1.0)


# --- the constitution -------------------------------------------------------------------------------------------------


def by_name(scores: dict[str, float]) -> Says:
    return Says(lambda question: scores[question.name])


def test_principles_are_weighted(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[principle]]\nname = "kind"\nquestion = "Which is kinder?"\nweight = 3\n'
        '[[principle]]\nname = "short"\nquestion = "Which is shorter?"\n'
        '[[principle]]\nname = "only-to-revise"\ncritique = "c"\nrevision = "r"\n'
    )
    judge = by_name({"kind": 0.8, "short": 0.4})
    reward = Constitution(judge, "pointwise", constitution=str(file))
    (scores,) = reward.score([group("a", "b")], None)
    assert scores[0].value == pytest.approx((3 * 0.8 + 0.4) / 4)
    assert scores[0].parts == {"kind": 0.8, "short": 0.4}
    assert scores[0].note == "kind 0.80 because; short 0.40 because"
    assert [question.criterion for question in judge.heard[:2]] == ["Which is kinder?", "Which is shorter?"]

    def pair(question: Question) -> float:  # "a" is kinder for sure, "b" shorter for sure
        return float((question.answers[0] == "a") == (question.name == "kind"))

    (scores,) = Constitution(Says(pair), constitution=str(file)).score([group("a", "b")], None)
    expected = fn.bradley_terry(torch.tensor([[0.0, 0.75], [0.25, 0.0]]), 0.1).tolist()
    assert [score.value for score in scores] == pytest.approx(expected)
    assert scores[0].parts == {"kind": 1.0, "short": 0.0, "position_bias": 0.0, "consistent": 1.0}


def test_a_principle_that_abstains_does_not_count() -> None:
    judge = Says(lambda question: 0.9 if question.name == "polite" else Verdict("abstain"))
    (scores,) = Constitution(judge, "pointwise", constitution="safe").score([group("a")], None)
    assert scores[0].value == pytest.approx(0.9) and scores[0].parts == {"polite": 0.9}


def test_principles_are_drawn_by_weight_for_each_comparison(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "".join(f'[[principle]]\nname = "{n}"\nquestion = "q"\nweight = {w}\n' for n, w in (("x", 9), ("y", 1)))
    )
    judge = Says(later)
    reward = Constitution(judge, constitution=str(file), principles_per_comparison=1, orders="one")
    groups = [group(*[f"{i} {j}" for j in range(5)]) for i in range(20)]
    first = values(reward, *groups)
    names = [question.name for question in judge.heard]
    assert len(names) == 200 and 5 <= names.count("y") <= 40  # 20 are expected
    assert values(reward, *groups) == first
    assert values(replace(reward, seed=1), *groups) != first or names != [q.name for q in judge.heard[400:]]


def test_examples_come_with_the_better_answer_in_both_places() -> None:
    judge = Says(later)
    Constitution(judge, constitution="zoo", principles=("harmless",), examples=2).score([group("a", "b")], None)
    (principle,) = [each for each in load("zoo") if each.name == "harmless"]
    shown = judge.heard[0].examples
    assert len(shown) == min(2, len(principle.examples))
    for index, (question, verdict) in enumerate(shown):
        better = question.answers[0 if verdict.value == 1.0 else 1]
        assert better == principle.examples[index].revision and verdict.value == float(index % 2 == 0)


def test_a_principle_that_is_none_is_told() -> None:
    with pytest.raises(RecipeError, match="the constitution has no 'polit'"):
        Constitution(RulesJudge(), constitution="safe", principles=("polit",))


# --- the judge that is a program --------------------------------------------------------------------------------------


def test_rules_judge_by_their_names() -> None:
    from alignzoo_tiny import safe

    prompt = next(iter(safe.prompts("train")))
    best, rude = safe.understand(prompt).best, f"{safe.understand(prompt).best} you are stupid ."
    judge = RulesJudge()

    def verdict(name: str, *answers: str) -> Verdict:
        return judge.judge([Question(({"role": "user", "content": prompt},), answers, name=name)], None)[0]

    for name, rule in safe.PRINCIPLES.items():
        expected = rule(prompt, best) - rule(prompt, rude)
        assert verdict(name, best, rude).value == (1.0 if expected > 0 else 0.5 if expected == 0 else 0.0)
        assert verdict(name, rude, best).value == 1 - verdict(name, best, rude).value
        assert verdict(name, best).value == pytest.approx((1 + min(1, max(-1, rule(prompt, best)))) / 2)
    assert verdict("non-evasive", best).value == verdict("non_evasive", best).value
    assert verdict("honest", best) == Verdict(
        "abstain", note="there is no rule for 'honest', only polite, harmless, non_evasive, brief, fluent"
    )
    total = sum(rule(prompt, best) for rule in safe.PRINCIPLES.values())
    assert verdict("", best).value == pytest.approx((1 + total / 5) / 2)
    margin = total - sum(rule(prompt, rude) for rule in safe.PRINCIPLES.values())
    unsure = RulesJudge(noise=2.0).judge([Question(prompt, (best, rude))], None)[0]
    assert unsure.value == pytest.approx(1 / (1 + math.exp(-margin / 2)))
