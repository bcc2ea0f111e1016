"""What is said of raters: figures that can be checked by hand, and simulated raters whose faults are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from alignzoo_human import bias, quality, report
from alignzoo_human.votes import Kind, Value, Vote


def vote(item: str, rater: str, value: Value, **known: object) -> Vote:
    kind: Kind = "ranking" if isinstance(value, tuple) else "pair"
    fields = {"kind": kind, "seconds": 5.0, "left": "first", "gold": False, "repeat": False, "at": 0.0} | known
    return Vote(item=item, rater=rater, value=value, **fields)  # type: ignore[arg-type]


def pairs(said: dict[str, str]) -> list[Vote]:
    """Votes by rater, one character an item: 1, 0, t a tie, - none."""
    worth = {"1": 1.0, "0": 0.0, "t": 0.5}
    return [
        vote(f"item {place}", rater, worth[each])
        for rater, row in said.items()
        for place, each in enumerate(row)
        if each != "-"
    ]


def test_alpha_of_two_raters_by_hand() -> None:
    # four items, one differs: D_o = 2/8. Five 1s and three 0s of eight: D_e = 2·5·3 / (8·7). α = 1 - (1/4)·(56/30)
    found = quality.alpha(pairs({"ann": "1100", "bob": "1110"}), "pair", "nominal")
    assert found is not None
    assert found.value == pytest.approx(1 - 56 / 120)
    assert found.n == 4
    assert found.low < found.value < found.high


def test_gold_questions_repeats_and_lone_votes_do_not_count_together() -> None:
    votes = pairs({"ann": "11001", "bob": "1110-"})
    plain = quality.alpha(votes, "pair", "nominal")
    more = [vote("item 0", "ann", 0.0, repeat=True, at=9.0), vote("gold", "ann", 1.0, gold=True)]
    assert quality.alpha([*votes, *more, vote("gold", "bob", 0.0, gold=True)], "pair", "nominal") == plain
    assert quality.alpha(pairs({"ann": "1100"}), "pair", "nominal") is None
    assert quality.alpha(pairs({"ann": "11", "bob": "11"}), "pair", "nominal") is None  # nothing could have differed


def test_a_later_vote_takes_an_earlier_ones_place() -> None:
    votes = [vote("a", "ann", 1.0, at=1.0), vote("a", "ann", 0.0, at=2.0)]
    assert quality.opinions(votes, "pair") == {"a": {"ann": 0.0}}
    assert quality.opinions(votes[::-1], "pair") == {"a": {"ann": 0.0}}


def test_no_disagreement_seen_is_not_certainty() -> None:
    # ten items alike, half of them 1: q = 1 - 0.025^(1/10) = 0.3085, D_e = 2·10·10/(20·19): α may be 1 - 0.3085·1.9
    votes = pairs({"ann": "1111100000", "bob": "1111100000"})
    found = quality.alpha(votes, "pair", "nominal")
    assert found is not None and (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - 0.3085 * 1.9, abs=1e-3)
    (kappa,) = quality.kappas(votes, "pair")
    assert kappa.kappa is not None and kappa.kappa.low == pytest.approx(1 - 0.3085 / 0.5, abs=1e-3)


def test_the_interval_of_alpha_covers() -> None:
    # two raters who each tell the truth of a fair coin with probability 0.85: agreement 0.745, α = 2·0.745 - 1
    covered, trials = 0, 60
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        truth = rng.random(80) < 0.5
        rows = {rater: "".join("10"[int(t ^ (rng.random() < 0.85))] for t in truth) for rater in ("ann", "bob")}
        found = quality.alpha(pairs(rows), "pair", "nominal", seed=seed, resamples=200)
        assert found is not None
        covered += found.low <= 0.49 <= found.high
    assert covered >= 52  # 57 expected, sd 1.7


def test_kappa_of_raters_who_always_say_the_same_one_thing_is_undefined_and_not_nought() -> None:
    votes = pairs({"ann": "11111", "bob": "1111-"})
    assert [(each.kappa, each.items) for each in quality.kappas(votes, "pair")] == [(None, 4)]
    found = report.summary(votes, {vote.item: [1, 1] for vote in votes})
    assert "undefined: both always say the same one thing" in report.to_text(found, width=120)
    assert "undefined: both always say the same one thing" in report.to_html(found)
    assert json.loads(report.to_json(found))["kappas"][0]["kappa"] is None


def test_kappa_is_of_common_items() -> None:
    found = quality.kappas(pairs({"ann": "1100t1", "bob": "1010t-", "eve": "-----1"}), "pair")
    assert [(each.first, each.second, each.items) for each in found] == [("ann", "bob", 5)]
    assert found[0].kappa is not None and found[0].kappa.value == pytest.approx(
        (0.6 - 0.36) / 0.64
    )  # 3 of 5; 2/5² + 2/5² + 1/5²


def test_rankings_count_as_pairs_of_answers_drawn_together() -> None:
    votes = [vote("a", "ann", (1, 2, 3)), vote("a", "bob", (1, 3, 2)), vote("b", "ann", (2, 2, 1))]
    found = quality.alpha([*votes, vote("b", "bob", (2, 2, 1))], "ranking", "nominal")
    assert found is not None and found.n == 2
    # six pairs of answers, one differs: D_o = 1/6; values 1 ×5, 0 ×5, ½ ×2: D_e = (144 - 54)/(12·11)
    assert found.value == pytest.approx(1 - (1 / 6) / (90 / 132))
    (worst,) = quality.disputed(votes)
    assert (worst.item, worst.disagreement) == ("a", pytest.approx(1 / 3))


def test_disputed_items_worst_first() -> None:
    found = quality.disputed(pairs({"ann": "1111", "bob": "1010", "eve": "10-0"}))
    assert [(each.item, round(each.disagreement, 2)) for each in found] == [("item 1", 0.67), ("item 3", 0.67)]
    assert found[0].votes == (("ann", 1.0), ("bob", 0.0), ("eve", 0.0))
    grades = [vote("a", who, value, kind="grade") for who, value in (("ann", 1.0), ("bob", 5.0), ("eve", 3.0))]
    assert quality.disputed(grades)[0].disagreement == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_self_consistency_compares_a_repeat_with_what_was_said_before() -> None:
    votes = [vote("a", "ann", 1.0, at=1), vote("b", "ann", 0.5, at=2), vote("c", "ann", 1.0, at=3)]
    votes += [vote("a", "ann", 1.0, at=4, repeat=True), vote("b", "ann", 0.0, at=5, repeat=True)]
    found = bias.self_consistency(votes)
    assert found is not None and (found.value, found.n) == (0.5, 2)
    assert bias.self_consistency(votes[:3]) is None
    rankings = [vote("r", "ann", (1, 2, 3), at=1), vote("r", "ann", (1, 3, 2), at=2, repeat=True)]
    found = bias.self_consistency(rankings)
    assert found is not None and found.value == pytest.approx(2 / 3)


def test_gold_accuracy() -> None:
    votes = [vote(f"g{i}", "ann", value, gold=True, at=i) for i, value in enumerate([1.0, 1.0, 0.0, 0.5])]
    found = bias.gold_accuracy([*votes, vote("a", "ann", 1.0)], {"g0": 1.0, "g1": 0.0, "g2": 0.0, "g3": 0.5})
    assert found is not None and (found.value, found.n) == (0.75, 4)
    assert bias.gold_accuracy(votes, {}) is None


@pytest.mark.parametrize("lean", [0.0, 0.5])
def test_left_share_finds_a_rater_who_leans_to_one_side(lean: float) -> None:
    rng = np.random.default_rng(1)
    votes = []
    for place in range(400):
        left = ("first", "second")[int(rng.random() < 0.5)]
        better = float(rng.random() < 0.7)  # the first answer is better more often, as a sampler's order may have it
        if rng.random() < lean:
            better = float(left == "first")
        votes.append(vote(f"i{place}", "ann", better, left=left))
    found = bias.left_share(votes)
    assert found is not None
    assert (found.low <= 0.5 <= found.high) == (lean == 0)
    assert found.value == pytest.approx(0.5 + lean / 2, abs=0.06)
    mirrored = [replace(each, left={"first": "second", "second": "first"}[each.left or ""]) for each in votes]
    other = bias.left_share(mirrored)
    assert other is not None and other.value == pytest.approx(1 - found.value)


def test_longer_share_leaves_out_ties_and_equal_lengths() -> None:
    votes = [vote("a", "ann", 1.0), vote("b", "ann", 0.0), vote("c", "ann", 0.5), vote("d", "ann", 1.0)]
    lengths = {"a": (9, 2), "b": (9, 2), "c": (9, 2), "d": (4, 4)}
    found = bias.longer_share([*votes, vote("r", "ann", (2, 3, 1))], lengths | {"r": (5, 1, 9)})
    assert found is not None and (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert bias.longer_share(votes, {}) is None


def test_grades_and_length() -> None:
    lengths = {f"i{i}": (i,) for i in range(20)}
    graded = [vote(f"i{i}", "ann", float(i // 4), kind="grade", left=None) for i in range(20)]
    found = bias.length_correlation(graded, lengths)
    assert found is not None and found.value > 0.95 and found.low > 0.8


def test_votes_that_came_too_fast() -> None:
    seconds = (0.4, 1.5, 3.0, 30.0)
    votes = [vote(f"i{i}", "ann", 1.0, seconds=each) for i, each in enumerate(seconds)]
    found = bias.too_fast(votes, {"i1": (20, 40), "i2": (20, 20)})  # 60 words in 1.5 s; 40 in 3 s
    assert found is not None and found.value == 0.5


def test_every_figure_is_blind_to_the_order_of_votes_and_the_names_of_raters() -> None:
    rng = np.random.default_rng(3)
    votes = [
        vote(f"i{i}", rater, float(rng.choice([0, 0.5, 1])), at=float(rng.random()), left="second")
        for i in range(12)
        for rater in ("ann", "bob", "eve")
    ]

    def told(votes: Sequence[Vote]) -> object:
        found = quality.alpha(votes, "pair", "ordinal")
        return found and found.value, quality.disputed(votes), bias.tie_share(votes), bias.left_share(votes)

    assert told([votes[i] for i in rng.permutation(len(votes))]) == told(votes)
    renamed = quality.alpha([replace(each, rater=each.rater[::-1]) for each in votes], "pair", "ordinal")
    plain = quality.alpha(votes, "pair", "ordinal")
    assert renamed and plain and renamed.value == pytest.approx(plain.value)
