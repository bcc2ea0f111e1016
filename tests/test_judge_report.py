"""Judges examined: ten pairs by hand, three that are no judges, and what people really said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignzoo import DataError, Prompt, Question, Verdict, report
from alignzoo.data import Data, from_rows, read
from alignzoo.judging.examine import Examination, Examiner, padded
from alignzoo.judging.fitness import Bars, fitness
from alignzoo.judging.pairs import Pair, pairs_of
from alignzoo_yardsticks import First, Longer, Random, Recorded

SHARED = Path(__file__).parents[2] / "shared" / "data"
PANDALM = SHARED / "pandalm" / "testset-v1.json"
ALPACA = SHARED / "alpaca_eval" / "alpaca-farm-ppo-human.gpt4-annotations.json"

TEN = [  # words of the first and second answer, and what three raters and a judge said
    (3, 1, "111", "1"),
    (3, 1, "111", "1"),
    (3, 1, "112", "1"),
    (3, 1, "222", "2"),
    (1, 3, "222", "2"),
    (1, 3, "222", "2"),
    (1, 3, "221", "1"),
    (1, 3, "111", "1"),
    (2, 2, "000", "0"),
    (2, 2, "012", "2"),
]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """The ten pairs as a file in PandaLM's form, with a judge's verdicts beside."""
    rows = [
        {
            "instruction": f"question {number}",
            "input": "",
            "response1": " ".join("abc"[:first]),
            "response2": " ".join("xyz"[:second]),
            **{f"annotator{i}": vote for i, vote in enumerate(votes, 1)},
            "gpt": verdict,
        }
        for number, (first, second, votes, verdict) in enumerate(TEN)
    ]
    path = tmp_path / "ten.json"
    path.write_text(json.dumps(rows))
    return path


def examined(judge: Any, path: Path, **settings: Any) -> Examination:
    return Examiner(**settings).examine(judge, pairs_of(read(Data(str(path)))))


def test_ten_pairs_by_hand(ten: Path) -> None:
    found = examined(Recorded(str(ten), "gpt"), ten)
    assert found.pairs == 10
    judged = {each.second: each for each in found.judged}
    # with annotator1, 1112222100 -> 111 2 22 2 1 0 0: the judge differs at pairs 7 and 10
    assert judged["annotator1"].agreement.value == pytest.approx(0.8)
    # the judge says 1 five times, 2 four, 0 once; annotator1 1 four times, 2 four, 0 twice: .20 + .16 + .02 = .38
    assert judged["annotator1"].kappa.value == pytest.approx((0.8 - 0.38) / (1 - 0.38))
    # the majority is 111 2 22 2 1 0 and none of the last pair: 8 of 9 alike.
    # the judge: 1 five times, 2 three, 0 once; the majority: 1 four times, 2 four, 0 once: (20 + 12 + 1) / 81
    assert judged["majority"].agreement.n == 9
    assert judged["majority"].kappa.value == pytest.approx((8 / 9 - 33 / 81) / (1 - 33 / 81))
    # annotators 1 and 2 differ at the last pair alone, 0 and 1. 1: four, 2: four, 0: two; 1: five, 2: four, 0: one
    raters = {(each.first, each.second): each for each in found.raters}
    assert raters["annotator1", "annotator2"].agreement.value == pytest.approx(0.9)
    assert raters["annotator1", "annotator2"].kappa.value == pytest.approx((0.9 - 0.38) / (1 - 0.38))
    # ranks of length: four 1.5, two 4.5, four 7.5, so ±3 and 0 about their mean; of the judge's preference for the
    # first: four 1.5, one 4, five 7, so -3, -.5 and 2.5. Products: 3·3·2.5 - 3·3 + 2·3·3 - 2·3·2.5 = 16.5
    assert found.figures["length"].value == pytest.approx(16.5 / (8 * 9 * (4 * 9 + 0.25 + 5 * 6.25)) ** 0.5)
    assert found.unmeasured.keys() == {"consistent", "first", "repeatable", "padded"}
    assert all(why == "its verdicts are recorded" for why in found.unmeasured.values())
    finding = fitness(found, Bars())
    assert finding.fit is None and "same winner in both orders could not be measured" in str(finding)


@dataclass(frozen=True)
class Scripted:
    """A judge that answers by a function, and counts its calls."""

    answer: Callable[[Question], float | None]

    def judge(self, questions: Sequence[Question], policy: Any) -> list[Verdict]:
        answers = [self.answer(question) for question in questions]
        return [Verdict("abstain") if a is None else Verdict("value", a) for a in answers]


def test_order_consistency_by_hand(ten: Path) -> None:
    """Pairs 0 to 3 are decided by content, 4 to 7 by place, 8 is a tie in both orders, 9 in one."""

    def answer(question: Question) -> float:
        number, turned = int(str(question.prompt).split()[1]), question.answers[0].startswith("x")
        if number < 4:
            return 0.1 if turned else 0.9
        return 0.7 if number < 8 else 0.5 if number == 8 or turned else 0.6

    found = examined(Scripted(answer), ten, probes=0, repeats=0)
    assert found.figures["consistent"].value == pytest.approx(0.5)  # 0 to 3 and 8
    # the first place wins 4 of 8, then 8 of 8, then half of 2, then 1.5 of 2
    assert found.figures["first"].value == pytest.approx((4 + 8 + 1 + 1.5) / 20)
    assert found.unmeasured.keys() == {"repeatable", "padded"}
    judged = {each.second: each for each in found.judged}
    # both orders together: 1 1 1 1 by content, ties of 4 to 8, and .55 of the last, for the first
    assert judged["annotator1"].agreement.value == pytest.approx(4 / 10)  # pairs 0, 1, 2 and 8


def test_what_is_abstained_from_is_counted_and_left_out(ten: Path) -> None:
    found = examined(Scripted(lambda question: None if "3" in question.prompt else 1.0), ten)
    assert found.figures["unanswered"].value == pytest.approx(0.1)
    assert found.judged[0].agreement.n == 9
    assert "pairs abstained from or failed in 10%" in str(fitness(found, Bars(unanswered=0.05)))
    nobody = examined(Scripted(lambda question: None), ten)
    assert "it agreed with nobody" in str(fitness(nobody, Bars()))


def good(question: Question) -> float:
    """Prefers, in any order, the answer that says "right", whatever surrounds it."""
    first, second = ("right" in answer for answer in question.answers)
    return 0.5 + 0.4 * (first - second)


@pytest.fixture
def hundred() -> list[Pair]:
    """A hundred pairs whose good answer is now longer, now shorter, now first, now second."""
    rows = []
    for number in range(100):
        right, wrong = "that is right" + " indeed" * (number % 7), "that is wrong" + " indeed" * (number % 5)
        rows.append({"prompt": f"question {number}", "completions": [right, wrong], "scores": [1, 0]})
        if number % 2:
            rows[-1] |= {"completions": [wrong, right], "scores": [0, 1]}
    return pairs_of(from_rows(rows))


def test_a_good_judge_is_fit(hundred: list[Pair]) -> None:
    found = Examiner(resamples=200).examine(Scripted(good), hundred)
    assert fitness(found, Bars()).fit, str(fitness(found, Bars()))
    assert str(fitness(found, Bars())) == "fit to train: yes"
    assert found.figures["consistent"].value == found.figures["repeatable"].value == 1
    assert found.figures["padded"].value == found.figures["first"].value == 0.5
    assert found.judged[-1].second == "labels" and found.judged[-1].kappa.value == 1


@pytest.mark.parametrize(
    ("judge", "caught"),
    [
        (First(), ["same winner in both orders in 0% of cases", "κ with the labels is 0.00"]),
        (Longer(), ["wins of an answer with padding over itself in 100% of cases", "it prefers length"]),
        (Random(), ["same winner in both orders", "same verdict when asked again", "κ with the labels"]),
    ],
)
def test_what_is_no_judge_is_caught(judge: Any, caught: list[str], hundred: list[Pair]) -> None:
    finding = fitness(Examiner(resamples=200).examine(judge, hundred), Bars())
    assert finding.fit is False
    for reason in caught:
        assert reason in str(finding)


def test_one_who_prefers_length_is_caught_also_where_people_do(ten: Path) -> None:
    """Labels that go by length alone agree with it wholly; the probe still tells."""
    rows = [{"prompt": "q", "chosen": "a b c d" + " e" * n, "rejected": "a b c"} for n in range(20)]
    found = Examiner(resamples=50).examine(Longer(), pairs_of(from_rows(rows)))
    assert found.judged[-1].agreement.value == 1
    assert fitness(found, Bars()).fit is False


def test_padding_adds_nothing_but_length() -> None:
    assert padded("one two three four", "so be it") == "one two three four so be it"
    assert len(padded("word " * 40, "so be it").split()) == 61
    assert padded("one two", "x").startswith("one two x")


def test_pairs_come_from_labels_and_from_votes() -> None:
    (pair,) = pairs_of([Prompt("q", ("worst", "middle", "best"), (0.0, 0.5, 1.0))])
    assert pair.answers == ("worst", "best") and pair.votes == {"labels": 2} and pair.truth == 2
    (tie,) = pairs_of([Prompt("q", ("a", "b"), (0.5, 0.5))])
    assert tie.votes == {"labels": 0}
    chat = Prompt(({"role": "user", "content": "q"},), (({"role": "assistant", "content": "a b"},), "c"), (1.0, 0.0))
    assert pairs_of([chat])[0].answers == ("a b", "c") and pairs_of([chat])[0].longer == 1
    voted = Prompt("q", ("a", "b"), (1.0, 0.0), {"ann": "2", "bob": 0})
    assert pairs_of([voted], ["ann", "bob"])[0].votes == {"ann": 2, "bob": 0}
    with pytest.raises(DataError, match=r"no column 'anne'\. Did you mean 'ann'"):
        pairs_of([voted], ["anne"])
    with pytest.raises(DataError, match=r"'ann': expected a vote, 0 \(neither\), 1 or 2, found 'yes'"):
        pairs_of([Prompt("q", ("a", "b"), (1.0, 0.0), {"ann": "yes"})], ["ann"])
    with pytest.raises(DataError, match="no labelled pairs"):
        pairs_of([Prompt("q")])


def test_a_recorded_judge_knows_only_what_was_recorded(ten: Path) -> None:
    judge = Recorded(str(ten), "gpt")
    asked = Question("question 3", ("a b c", "x"))
    turned, unknown = Question("question 3", ("x", "a b c")), Question("question 3", ("a b c", "y"))
    kinds = [(verdict.kind, verdict.value) for verdict in judge.judge([asked, turned, unknown], None)]
    assert kinds == [("value", 0.0), ("abstain", None), ("abstain", None)]
    with pytest.raises(DataError, match=r"row 1: no column 'gtp' with verdicts. Did you mean 'gpt'"):
        Recorded(str(ten), "gtp").judge([asked], None)
    with pytest.raises(DataError, match=r"row 1: column 'idx': expected 0, 1 or 2, found 'x'"):
        rows = json.loads(ten.read_text())
        ten.write_text(json.dumps([row | {"idx": "x"} for row in rows]))
        Recorded(str(ten), "idx").judge([asked], None)


def test_alpacaevals_annotations_are_a_format() -> None:
    rows = [{"instruction": "q", "output_1": "a", "output_2": "b", "preference": p} for p in ("1", 2, 0, 1.25)]
    prompts = from_rows(rows)
    assert [prompt.labels for prompt in prompts] == [(1, 0), (0, 1), (0.5, 0.5), (0.75, 0.25)]
    assert prompts[0].completions == ("a", "b") and prompts[0].info == {"preference": "1"}
    with pytest.raises(DataError, match="column 'preference': expected 0"):
        from_rows([rows[0] | {"preference": "3"}])


def test_the_table_and_the_picture(ten: Path, tmp_path: Path) -> None:
    found = examined(Longer(), ten, resamples=50)
    finding = fitness(found, Bars())
    console = Console(width=100)
    with console.capture() as captured:
        console.print(report.examination_table(found, Bars(), finding))
    text = captured.get()
    assert "same winner in both orders" in text
    assert ["annotator1", "annotator2", "90.0%", "0.84"] in [line.split()[:4] for line in text.splitlines()]
    assert "fit to train: no" in text and max(map(len, text.splitlines())) <= 100
    report.examination_picture(found, Bars(), finding, tmp_path / "judge.png")
    report.examination_picture(found, Bars(), finding, tmp_path / "judge.svg")
    assert (tmp_path / "judge.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "judge.svg").read_text().count('id="axes_') == 3


def test_the_command(alignzoo: Any, ten: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    said = alignzoo("judge-report", "random", f"data={ten}", "judge.seed=3", "examine.repeats=2", "--out", out)
    assert said.code == 0, said.err
    assert "fit to train: no" in said.out and "annotator3" in said.out
    found = json.loads((out / "judge-report.json").read_text())
    assert found["judge"] == "random" and found["pairs"] == 10 and found["fit"] is False
    assert found["figures"]["repeatable"]["n"] == 20 and found["examine"]["repeats"] == 2
    assert (out / "judge-report.png").exists()
    again = alignzoo("judge-report", "random", f"data={ten}", "judge.seed=3", "examine.repeats=2", "--out", out)
    assert again.code == 1 and "choose another --out" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random"], "give data=FILE or task=NAME"),
        (["rando", "task=shop"], "there is no judge 'rando'. Did you mean 'random'"),
        (["random", "task=shop", "bars.kappa=2"], "bars.kappa: found 2, allowed: a number at least -1"),
        (["random", "task=shop", "judge.sed=2"], "judge.sed: Random has no such field. Did you mean 'seed'"),
        (["random", "tasks=shop"], "there is no 'tasks' here. Did you mean 'task'"),
        (["random", "task=sort", "examine.repeats=-1"], "examine.repeats: found -1, allowed: an integer at least 0"),
        (["random", "task=sort", "bars=3"], "bars: found 3, allowed: settings, as in bars.KEY=VALUE"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str, alignzoo: Any) -> None:
    said = alignzoo("judge-report", *arguments)
    assert said.code == 1 and message in said.err


@pytest.mark.skipif(not PANDALM.exists(), reason="the shared data are not here")
def test_people_of_pandalm() -> None:
    found = examined(Recorded(str(PANDALM), "annotator1"), PANDALM, resamples=20)
    assert found.pairs == 999
    assert [each.second for each in found.judged] == ["annotator1", "annotator2", "annotator3", "majority"]
    rows = json.loads(PANDALM.read_text())
    same = sum(str(row["annotator1"]) == str(row["annotator2"]) for row in rows) / 999
    assert found.raters[0].agreement.value == pytest.approx(same)
    assert 0.8 < found.raters[0].kappa.value < 0.9
    straw = examined(Longer(), PANDALM, resamples=20, probes=20)
    assert fitness(straw, Bars()).fit is False


@pytest.mark.skipif(not ALPACA.exists(), reason="the shared data are not here")
def test_gpt4_of_alpacaeval_prefers_the_longer_a_little() -> None:
    found = examined(Recorded(str(ALPACA), "preference"), ALPACA, resamples=20)
    assert found.pairs == 805 and found.judged[0].kappa.value == 1
    assert found.figures["length"].value == pytest.approx(0.233, abs=0.001)
    assert fitness(examined(First(), ALPACA, resamples=20, probes=20), Bars()).fit is False
