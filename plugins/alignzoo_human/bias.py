"""What is known of one rater: consistency, accuracy on gold questions, bias to a side and to length, and time taken.

Pure functions of votes, mostly of one rater. A figure has a 95 % interval, or is None where there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from alignzoo import functional as fn
from alignzoo.judging.agreement import Estimate, binomial, estimate, spearman
from alignzoo_human.quality import likeness, outcome
from alignzoo_human.votes import Kind, Value, Vote

Lengths: TypeAlias = Mapping[str, Sequence[int]]
"""How many words each answer of an item has, in the item's own order."""


def self_consistency(votes: Sequence[Vote], *, seed: int = 0) -> Estimate | None:
    """How often one rater's vote on an item that is asked again is the one given before.

    `votes` are one rater's. Each repeat is compared with the vote before it; of rankings, pair of answers by pair.
    """
    before: dict[tuple[str, Kind], Vote] = {}
    alike = []
    for vote in sorted(votes, key=lambda vote: vote.at):
        if vote.repeat and (vote.item, vote.kind) in before:
            alike.append(likeness(before[vote.item, vote.kind].value, vote.value))
        before[vote.item, vote.kind] = vote
    return share(alike, seed, "self")


def gold_accuracy(votes: Sequence[Vote], truth: Mapping[str, Value], *, seed: int = 0) -> Estimate | None:
    """How often one rater's vote on a gold question is the right one; of rankings, pair of answers by pair.

    `truth` has the right verdict of each gold item; one vote on each counts, the first.
    """
    first: dict[str, Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.at):
        if vote.gold and vote.item in truth:
            first.setdefault(vote.item, vote)
    return share([likeness(truth[item], vote.value) for item, vote in first.items()], seed, "gold")


def left_share(votes: Sequence[Vote]) -> Estimate | None:
    """How often the answer on the left wins, of pairs that are no tie. Sides are drawn evenly: 0.5 is no bias."""
    wins = [
        (vote.value == 1.0) == (vote.left == "first")
        for vote in votes
        if vote.kind == "pair" and vote.left is not None and not vote.repeat and outcome(vote.value)
    ]
    return binomial(sum(wins), len(wins)) if wins else None


def longer_share(votes: Sequence[Vote], lengths: Lengths) -> Estimate | None:
    """How often the longer of two answers wins, of pairs that are no tie, and of each ranking's best and worst.

    Longer answers may be the better ones: what is telling is how far one rater is from the others.
    """
    wins = []
    for vote in votes:
        ends = outcome(vote.value) if vote.kind != "grade" else None
        if ends and vote.item in lengths and not vote.repeat:
            won, lost = (lengths[vote.item][answer] for answer in ends)
            wins += [won > lost] if won != lost else []
    return binomial(sum(wins), len(wins)) if wins else None


def length_correlation(votes: Sequence[Vote], lengths: Lengths, *, seed: int = 0) -> Estimate | None:
    """Spearman's correlation of one rater's grades with the answers' lengths, with a bootstrap interval."""
    points = [
        (float(vote.value), lengths[vote.item][0])
        for vote in votes
        if vote.kind == "grade" and not isinstance(vote.value, tuple) and vote.item in lengths and not vote.repeat
    ]
    if len(points) < 3:
        return None
    grades, words = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    rng = np.random.default_rng(fn.derive(seed, "length"))
    return estimate(lambda rows: spearman(grades[rows], words[rows]), len(points), rng)


def too_fast(
    votes: Sequence[Vote], lengths: Lengths, *, least: float = 1.0, words_per_second: float = 15.0
) -> Estimate | None:
    """How often a vote came before its answers could be read: in under `least` seconds, or at over 15 words a second.

    Adults read English at about 4 words a second (238 a minute: Brysbaert 2019, doi:10.1016/j.jml.2019.104047), so that
    15 is faster than skimming.
    """
    needed = [max(least, sum(lengths.get(vote.item, ())) / words_per_second) for vote in votes]
    fast = sum(vote.seconds < limit for vote, limit in zip(votes, needed, strict=True))
    return binomial(fast, len(votes)) if votes else None


def tie_share(votes: Sequence[Vote]) -> Estimate | None:
    """How often a pair, or a ranking as a whole, is called a tie."""
    ties = [outcome(vote.value) is None for vote in votes if vote.kind != "grade" and not vote.repeat]
    return binomial(sum(ties), len(ties)) if ties else None


def share(values: Sequence[float], seed: int, use: str) -> Estimate | None:
    """A mean of numbers from 0 to 1: with the exact binomial interval where all are 0 or 1, else with a bootstrap's."""
    if not values:
        return None
    if all(value in (0.0, 1.0) for value in values):
        return binomial(int(sum(values)), len(values))
    column = np.array(values)
    return estimate(lambda rows: float(column[rows].mean()), len(values), np.random.default_rng(fn.derive(seed, use)))
