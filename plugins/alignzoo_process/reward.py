"""The reward `process`: what a process reward model says of an answer's steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from alignzoo import Completion, Group, Policy, RewardError, RewardSource, Score
from alignzoo_process.segments import ends, token_counts


@dataclass(frozen=True)
class ProcessReward:
    """A process reward model's chances of an answer's steps: together one number, or a reward at each step's end.

    p_k = σ(s_k), s_k what the scorer says of the answer up to its k-th step.

    The minimum is Math-Shepherd's (arXiv:2312.08935), the product that of Lightman et al. 2023 (arXiv:2305.20050).
    """

    scorer: RewardSource
    """Who scores the answer up to each step: {name = "model", model = "stage:prm"}."""
    combine: Literal["min", "product", "mean", "last"] = "min"
    """How the steps' chances become one number."""
    dense: bool = False
    """Give each step's chance to its last token, and nothing to the answer as a whole."""
    separator: str = "\n"
    """What stands between two steps."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        begun = [
            replace(group, completions=tuple(self._up_to(each, end) for end in ends(each.text, self.separator)))
            for group in groups
            for each in group.completions
        ]
        said = iter(self.scorer.score([each for each in begun if each.completions], policy))
        chances = [[_chance(score) for score in next(said)] if each.completions else [] for each in begun]
        steps = iter(chances)
        return [tuple(self._score(each, next(steps), policy) for each in group.completions) for group in groups]

    @staticmethod
    def _up_to(answer: Completion, end: int) -> Completion:
        """The answer's text up to a step's end, which is an end only where the answer's is."""
        return replace(answer, text=answer.text[:end], finished=answer.finished and end == len(answer.text))

    def _score(self, answer: Completion, chances: Sequence[float], policy: Policy) -> Score:
        if not chances:
            return Score(None, note="an empty answer has no step")
        value = {"min": min, "product": math.prod, "mean": _mean, "last": _last}[self.combine](chances)
        parts = {"steps": float(len(chances)), self.combine: value}
        if not self.dense:
            return Score(value, parts=parts)
        strings: Any = policy.info().token_strings
        if strings is None:
            raise RewardError("reward process: the policy does not say what its tokens are: set reward.dense=false")
        tokens, counts = [0.0] * len(answer.tokens), token_counts(strings(answer.tokens), answer.text, self.separator)
        for count, chance in zip(counts, chances, strict=True):
            tokens[count - 1] = chance
        return Score(0.0, tuple(tokens), parts)


def _chance(score: Score) -> float:
    if score.value is None:
        raise RewardError("reward process: its scorer abstained from a step; take a reward model, which does not")
    return 1 / (1 + math.exp(-max(min(score.value, 700.0), -700.0)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _last(values: Sequence[float]) -> float:
    return values[-1]
