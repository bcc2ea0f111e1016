"""The final evaluation of a cell: the same measure for every algorithm of a task.

The KL of all is to the same starting policy, whatever reference an algorithm itself had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.batching import answer_jointly, collate
from alignzoo.compare.plan import Measure
from alignzoo.compare.results import Figures
from alignzoo.decoding import Decoding
from alignzoo.evaluation import answers as evaluation
from alignzoo.evaluation.answers import Answer, Decoded, Gold, Measures, answered, with_distributions
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward
from alignzoo.types import Batch, Prompt, Text

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
    preferences: bool = False
    """Whether the prompts' given answers are compared, too: of data that bring a better and a worse one."""


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
    if not examiner.preferences:
        return found
    known = preferred(policy, examiner, prompts, batcher, starting)
    return [each if each.greedy else _with_pair(each, known.get(each.prompt - measure.first)) for each in found]


def _with_pair(answer: Answer, known: tuple[float, float] | None) -> Answer:
    return answer if known is None else replace(answer, preference=known[0], nll=known[1])


def preferred(
    policy: Policy, examiner: Examiner, prompts: Sequence[Prompt], batcher: MicroBatcher, starting: MicroBatcher
) -> dict[int, tuple[float, float]]:
    """By place, for each prompt with a better and a worse given answer: whether the policy has raised the better one
    more (the sign of DPO's implicit reward; Rafailov et al. 2023, arXiv:2305.18290), and its loss on the better one."""
    pairs = {place: pair for place, prompt in enumerate(prompts) if (pair := best_and_worst(prompt)) is not None}
    if not pairs:
        return {}
    groups = [policy.encode(prompts[place], pair) for place, pair in pairs.items()]
    batch = collate(groups, policy.device, scored=False)
    names = frozenset({"logprobs"})
    now = answer_jointly(policy, batch, names, batcher=batcher)["logprobs"]
    before = answer_jointly(examiner.start, batch, names, batcher=starting)["logprobs"]
    raised = torch.where(batch.mask, now - before, 0.0).sum(1).tolist()
    nll = (torch.where(batch.mask, -now, 0.0).sum(1) / batch.mask.sum(1).clamp(min=1)).tolist()
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group.tolist()):
        rows.setdefault(group, []).append(row)
    found = {}
    for place, both in zip(pairs, rows.values(), strict=True):
        if len(both) == 2:  # an empty answer has no row
            lead = raised[both[0]] - raised[both[1]]
            found[place] = 0.5 * (1 + (lead > 0) - (lead < 0)), nll[both[0]]
    return found


def best_and_worst(prompt: Prompt) -> tuple[Text, Text] | None:
    """The given answers with the highest and the lowest label; None where there are none, or all are alike."""
    if len(prompt.completions) < 2 or len(prompt.labels) != len(prompt.completions):
        return None
    best, worst = (prompt.labels.index(end(prompt.labels)) for end in (max, min))
    return (
        None if prompt.labels[best] == prompt.labels[worst] else (prompt.completions[best], prompt.completions[worst])
    )


def figures(answers: Sequence[Answer]) -> Figures:
    """The evaluation's figures, and how varied the sampled answers are."""
    sampled = [each.tokens for each in answers if not each.greedy]
    return evaluation.figures(answers) | {f"distinct/{n}": distinct(sampled, n) for n in (1, 2, 3)}


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Distinct-n: different n-grams of tokens over all n-grams of all answers (Li et al. 2016, arXiv:1510.03055)."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
