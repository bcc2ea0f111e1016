"""Reward `judge`: any judge, asked about the answers of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignzoo import Group, Policy, Score
from alignzoo.judging import Criterion, JudgedReward


@dataclass(frozen=True)
class JudgeReward(JudgedReward):
    """A judge's opinion of the answers: which of two is better, over a group's pairs, or how good each one is.

    pairwise: p_ij is the probability that answer i is better than j, the mean over both orders in which the pair is
    shown, and the scores are Bradley-Terry's: the maximum of

        Σ p_ij·log σ(s_i - s_j) + p_ji·log σ(s_j - s_i) - ridge/2·Σ s_i²,

    so they sum to 0 in every group (Bradley and Terry 1952, with a Gaussian prior). Equal answers are asked about once
    and score alike; one answer alone has nothing to be compared with, and no score.

    The parts tell of the group's pairs in both orders: `position_bias`, how far the judge leans to what is shown first
    (-0.5 to 0.5), and `consistent`, the share of pairs with the same winner both times. What the judge says is in the
    score's note. Unlike Bai et al. 2022 (arXiv:2212.08073), where the judge's log-probabilities train a preference
    model, the verdicts are the reward.
    """

    criterion: str = ""
    """What to judge by, in a sentence or a rubric; empty: overall quality."""

    def questions(self, prompts: int, completions: int) -> int:
        return self.questions_by(1, prompts, completions)

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return self.judged(groups, [Criterion(self.criterion)], policy)
