"""Sampler `rationalised`: solutions of the policy, and where it finds none, solutions that it gives after a hint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge

from alignzoo import DataError, Group, Policy, Prompt, RewardSource, Score
from alignzoo import functional as fn

TEMPLATE = "{prompt}\n(Hint: the right answer is {answer}. Explain how one gets there.)"


@dataclass(frozen=True)
class Rationalised:
    """The policy's n solutions of each prompt; where none is right, as many that it gives when the right answer is
    hinted at, put as answers to the prompt without the hint.

    Zelikman et al. 2022 (arXiv:2203.14465) algorithm 1, STaR's generation and rationalisation. Which solutions are
    right the reward says, and the scores are its own: an optimizer that imitates what is good enough keeps those alone.
    Theirs decodes greedily, one solution of each prompt.
    """

    reward: RewardSource
    """What says whether a solution is right: {name = "match", answer = "answer"}."""
    n: Annotated[int, Ge(1)] = 1
    """Solutions per prompt."""
    answer: str = "answer"
    """The column of the data with the right answer, the hint."""
    template: str = TEMPLATE
    """What is asked with a hint: {prompt}, the last turn of the prompt, and {answer}."""
    right: float = 0.5
    """A solution whose reward is above it is right."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if "{answer}" not in self.template:
            raise ValueError(f"the template {self.template[:60]!r} has no {{answer}}: it would be no hint")

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        asked = [self._hinted(prompt) for prompt in prompts]
        solved = self._scored(
            policy.generate(prompts, self.n, seeds=[fn.derive(seed, "own") for seed in seeds]), policy
        )
        missed = [i for i, group in enumerate(solved) if not any(map(self._is_right, group.scores or ()))]
        hinted = [fn.derive(seeds[i], "hinted") for i in missed]
        found = policy.generate([asked[i] for i in missed], self.n, seeds=hinted) if missed else []
        for i, given in zip(missed, found, strict=True):
            own = tuple(replace(each, logprobs=None) for each in given.completions)  # of another prompt
            solved[i] = replace(solved[i], completions=solved[i].completions + own, scores=None)
        again = iter(self._scored([solved[i] for i in missed], policy))
        return [next(again) if group.scores is None else group for group in solved]

    def _scored(self, groups: Sequence[Group], policy: Policy) -> list[Group]:
        scores = self.reward.score(groups, policy)
        return [replace(group, scores=tuple(some)) for group, some in zip(groups, scores, strict=True)]

    def _is_right(self, score: Score) -> bool:
        return score.value is not None and score.value > self.right

    def _hinted(self, prompt: Prompt) -> Prompt:
        if self.answer not in prompt.info:
            raise DataError(
                f"the prompt {str(prompt.messages)[:80]!r} has no column {self.answer!r} to hint at: name the column "
                "with the right answer by sampler.answer"
            )
        filled = self.template.replace("{answer}", str(prompt.info[self.answer]))
        if isinstance(prompt.messages, str):
            return replace(prompt, messages=filled.replace("{prompt}", prompt.messages))
        *before, last = prompt.messages
        turn = {**last, "content": filled.replace("{prompt}", last["content"])}
        return replace(prompt, messages=(*before, turn))
