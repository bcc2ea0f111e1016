"""The final evaluation of a cell: the same measure for every algorithm of a task.

The KL of all is to the same starting policy, whatever reference an algorithm itself had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import answer_jointly
from alignzoo.compare.plan import Measure
from alignzoo.compare.results import Figures
from alignzoo.decoding import Decoding
from alignzoo.evaluation import answers as evaluation
from alignzoo.evaluation.answers import Answer, Decoded, Gold, Measures, answered, with_distributions
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward
from alignzoo.types import Batch, Prompt

SHOWN = 16
"""The number of prompts whose answers keep every token's log-probabilities, to be looked at."""


@dataclass(frozen=True)
class Examiner:
    """What answers are measured by: the same for every cell of a task."""

    prompts: Sequence[Prompt]
    rewards: Sequence[WeightedReward]
    gold: Gold | None
    start: Policy
    """The policy that all algorithms start from."""


def examine(policy: Policy, examiner: Examiner, measure: Measure) -> list[Answer]:
    """The policy's sampled answers, then its greedy ones; or the best of n."""
    prompts = examiner.prompts[measure.first : measure.last]
    seeds = fn.seeds(measure.first + len(prompts), measure.seed)[measure.first :]
    sampled = Decoded(measure.best_of or measure.n, seeds, best=bool(measure.best_of))
    ways = [sampled] if measure.best_of else [sampled, Decoded(1, seeds, Decoding(greedy=True))]
    by, batcher = Measures(examiner.rewards, examiner.gold), MicroBatcher(policy)

    starting = MicroBatcher(examiner.start)

    def start(batch: Batch) -> Tensor:
        return answer_jointly(examiner.start, batch, frozenset({"logprobs"}), batcher=starting)["logprobs"]

    found: list[Answer] = []
    for how in ways:
        groups, answers = answered(policy, prompts, how, by, first=measure.first)
        found += with_distributions(policy, groups, answers, start, batcher, shown=SHOWN)
    return found


def figures(answers: Sequence[Answer]) -> Figures:
    """The evaluation's figures, and how varied the sampled answers are."""
    sampled = [each.tokens for each in answers if not each.greedy]
    return evaluation.figures(answers) | {f"distinct/{n}": distinct(sampled, n) for n in (1, 2, 3)}


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Distinct-n: different n-grams of tokens over all n-grams of all answers (Li et al. 2016, arXiv:1510.03055)."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
