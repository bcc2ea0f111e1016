"""Raters and truth worked out together, on simulated votes whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alignzoo import DataError
from alignzoo import functional as fn
from alignzoo_human.quality import preferences
from alignzoo_human.raters import crowd_bradley_terry, dawid_skene, shares
from alignzoo_human.votes import Kind, Value, Vote


def vote(item: str, rater: str, value: Value, kind: Kind = "pair") -> Vote:
    return Vote(item, rater, kind, value, 5.0, None, False, False, 0.0)


def simulated(values: list[float], tables: dict[str, np.ndarray], n: int, seed: int) -> tuple[np.ndarray, list[Vote]]:
    """The places of true values, uniform, and every rater's vote on each item by their confusion matrix."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(values), size=n)
    said = {who: [int(rng.choice(len(values), p=table[t])) for t in truth] for who, table in tables.items()}
    kind: Kind = "pair" if values == [0.0, 1.0] else "grade"
    votes = [vote(f"{i:04d}", who, values[v], kind) for who, row in said.items() for i, v in enumerate(row)]
    return truth, votes


def symmetric(accuracy: float, n: int = 2) -> np.ndarray:
    off = (1 - accuracy) / (n - 1)
    return np.full((n, n), off) + np.eye(n) * (accuracy - off)


def majority_accuracy(votes: list[Vote], truth: np.ndarray, values: list[float]) -> float:
    """How often the most frequent vote is true; a draw counts by halves, thirds, ..."""
    right = []
    for i, (_, by) in enumerate(sorted(shares(votes, votes[0].kind).items())):
        best = [value for value, share in by.items() if share == max(by.values())]
        right.append((values[truth[i]] in best) / len(best))
    return float(np.mean(right))


UNEQUAL = {"good": 0.95, "fair": 0.85, "poor": 0.55, "dice": 0.5, "bad": 0.55}


@pytest.mark.parametrize("seed", range(3))
def test_unequal_raters_are_recovered_and_beat_a_majority(seed: int) -> None:
    truth, votes = simulated([0.0, 1.0], {who: symmetric(a) for who, a in UNEQUAL.items()}, 1000, seed)
    found = dawid_skene(votes, "pair")
    labels = [found.labels()[item] for item in sorted(found.items)]
    accuracy = float(np.mean(np.array(labels) == truth))
    assert accuracy > majority_accuracy(votes, truth, [0.0, 1.0]) + 0.04
    for place, who in enumerate(found.raters):
        assert found.confusion[place] == pytest.approx(symmetric(UNEQUAL[who]), abs=0.12)
    assert max(found.accuracy(), key=lambda who: found.accuracy()[who]) == "good"
    # probabilities are what they say: of those given 0.9 or more, at least as many are true, less chance
    best = found.posterior.max(1)
    sure = best > 0.9
    right = found.posterior.argmax(1) == truth[np.argsort(np.argsort(found.items))]
    assert right[sure].mean() == pytest.approx(best[sure].mean(), abs=0.05)


def test_a_confusion_that_is_not_symmetric_is_recovered_from_grades() -> None:
    lenient = np.array([[0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0.0, 0.1, 0.9]])
    tables = {"lenient": lenient, **{f"plain {i}": symmetric(0.8, 3) for i in range(3)}}
    _, votes = simulated([1.0, 2.0, 5.0], tables, 1500, 0)
    found = dawid_skene(votes, "grade")
    assert found.values == (1.0, 2.0, 5.0)
    assert found.confusion[found.raters.index("lenient")] == pytest.approx(lenient, abs=0.08)
    assert found.prior == pytest.approx(np.full(3, 1 / 3), abs=0.05)


def test_the_objective_never_falls_and_rows_are_distributions() -> None:
    _, votes = simulated([0.0, 1.0], {"a": symmetric(0.8), "b": symmetric(0.6), "c": symmetric(0.3)}, 60, 1)
    found = dawid_skene(votes, "pair")
    assert np.all(np.diff(found.objective) >= -1e-9)
    assert found.confusion.sum(2) == pytest.approx(np.ones((3, 2)))
    assert found.posterior.sum(1) == pytest.approx(np.ones(60))


def test_one_vote_of_one_rater_by_hand() -> None:
    # from shares: item true 1 for sure. π[1,1] = (1 + 2)/(1 + 3) = .75, π[0,1] would be 1/3; with two values seen on
    # two items, symmetric: posterior p = .75^.. is a fixed point of p = π/(π + 1 - π) with π = (p + 2)/(4)
    found = dawid_skene([vote("a", "ann", 1.0), vote("b", "ann", 0.0)], "pair")
    assert found.posterior[0, 1] == pytest.approx(2 / 3, abs=1e-3)  # p = (p + 2)/4
    assert found.labels() == {"a": 1.0, "b": 0.0}


def test_votes_count_alike_unless_quality_is_asked_for() -> None:
    _, votes = simulated([0.0, 1.0], {who: symmetric(a) for who, a in UNEQUAL.items()}, 400, 4)
    conflict = {"good": 1.0, "fair": 1.0, "poor": 0.0, "dice": 0.0, "bad": 0.0}
    votes += [vote("conflict", who, value) for who, value in conflict.items()]
    assert shares(votes, "pair")["conflict"] == {0.0: 0.6, 1.0: 0.4}
    assert shares(votes, "pair", by_quality=True)["conflict"][1.0] > 0.8


def test_what_the_models_do_not_take_is_refused() -> None:
    with pytest.raises(DataError, match="none of kind 'ranking'"):
        dawid_skene([vote("a", "ann", (1, 2), "ranking")], "ranking")
    with pytest.raises(DataError, match="25 different values"):
        dawid_skene([vote(f"{i}", "ann", i / 7, "grade") for i in range(25)], "grade")
    with pytest.raises(DataError, match="no votes"):
        crowd_bradley_terry([vote("a", "ann", 3.0, "grade")])


def test_with_raters_who_follow_the_model_it_is_bradley_terry() -> None:
    rankings = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 1, 2)]
    votes = [vote("a", f"r{i}", ranks, "ranking") for i, ranks in enumerate(rankings)]
    wins = torch.zeros(3, 3, dtype=torch.float64)
    for ranks in rankings:
        for (i, j), p in zip([(0, 1), (0, 2), (1, 2)], preferences(ranks), strict=True):
            wins[i, j] += p
            wins[j, i] += 1 - p
    found = crowd_bradley_terry(votes, ridge=0.3, right=1e7, wrong=1e-3)
    assert found.strengths["a"] == pytest.approx(fn.bradley_terry(wins, 0.3).tolist(), abs=1e-4)
    assert min(found.reliability.values()) > 0.999


def test_reliability_of_raters_who_rank_is_recovered() -> None:
    rng = np.random.default_rng(0)
    truth = {f"item {i}": rng.normal(scale=2, size=4) for i in range(60)}
    reliability = {"sure": 1.0, "often": 0.75, "dice": 0.5, "reverse": 0.1}
    votes = []
    for item, strengths in truth.items():
        for who, eta in reliability.items():
            seen = strengths + rng.logistic(scale=0.5, size=4)
            order = np.argsort(-seen if rng.random() < eta else seen)
            votes.append(vote(item, who, tuple(int(place) + 1 for place in np.argsort(order)), "ranking"))
    found = crowd_bradley_terry(votes)
    assert sorted(found.reliability, key=lambda who: -found.reliability[who]) == list(reliability)
    assert found.reliability["dice"] == pytest.approx(0.5, abs=0.15)
    best = [np.argmax(found.strengths[item]) == np.argmax(strengths) for item, strengths in truth.items()]
    borda = {item: np.zeros(4) for item in truth}  # what raters say who count alike
    for each in votes:
        borda[each.item] -= np.array(each.value)
    plain = [np.argmax(borda[item]) == np.argmax(strengths) for item, strengths in truth.items()]
    assert np.mean(best) > np.mean(plain) + 0.05


def test_a_pair_seen_the_other_way_round_has_the_strengths_of_the_other() -> None:
    _, votes = simulated([0.0, 1.0], {"a": symmetric(0.9), "b": symmetric(0.6)}, 40, 1)
    found = crowd_bradley_terry(votes)
    mirrored = crowd_bradley_terry([replace(v, value=1 - v.value) for v in votes if not isinstance(v.value, tuple)])
    for item, strengths in found.strengths.items():
        assert mirrored.strengths[item] == pytest.approx(strengths[::-1], abs=1e-4)
    assert mirrored.reliability == pytest.approx(found.reliability, abs=1e-4)
