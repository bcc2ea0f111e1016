"""The sampler `math-shepherd`: labels of steps by how often the policy gets to a right answer from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Completion, Group, PluginError, Policy, Prompt, RewardSource, Score
from alignzoo import functional as fn
from alignzoo_process.segments import steps_of, token_counts


@dataclass(frozen=True)
class _Rolled:
    """A solution, with how many of its tokens each of its steps goes up to."""

    group: Group
    solution: Completion
    counts: list[int]
    seed: int
    """Its own, which depends on its prompt's and on its place among the prompt's solutions alone."""


@dataclass(frozen=True)
class MathShepherd:
    """Solutions of the policy, step by step, each step labelled by rollouts from its end.

    Soft: the share of `rollouts` continuations whose reward is at least `right`. Hard: 1 where one of them is. The last
    step's label is the whole solution's own.

    Wang et al. 2023 (arXiv:2312.08935) eq. 3 and 4. In a stage without an optimizer it leaves data that the sampler
    `steps` reads: each solution is a prompt whose completions are its steps and whose scores are their labels.
    """

    reward: RewardSource
    """What says whether an answer is right: {name = "match", answer = "answer"}."""
    n: Annotated[int, Ge(1)] = 1
    """Solutions per prompt."""
    rollouts: Annotated[int, Ge(1)] = 8
    """Continuations from each step."""
    hard: bool = False
    """Label a step 1 where any of its rollouts is right, in the place of their share."""
    right: Annotated[float, Gt(0)] = 1.0
    """An answer is right where its reward is at least this."""
    separator: str = "\n"
    """What stands between two steps."""
    online: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        strings: Any = policy.info().token_strings
        if strings is None:
            raise PluginError("math-shepherd cuts answers into steps, and this policy does not say what its tokens are")
        solved = policy.generate(prompts, self.n, seeds=[fn.derive(seed, "solution") for seed in seeds])
        found = [
            _Rolled(group, each, token_counts(strings(each.tokens), each.text, self.separator), fn.derive(seed, i))
            for group, seed in zip(solved, seeds, strict=True)
            for i, each in enumerate(group.completions)
        ]
        found = [each for each in found if each.counts]  # an empty answer has no step
        labels = self._labels(found, policy)
        return [self._steps(each, some) for each, some in zip(found, labels, strict=True)]

    def _labels(self, found: Sequence[_Rolled], policy: Policy) -> list[list[float]]:
        """A label of each step of each solution."""
        places = [(i, count) for i, each in enumerate(found) for count in each.counts[:-1]]
        prefixes = [found[i].group.prompt_tokens + found[i].solution.tokens[:count] for i, count in places]
        own = [fn.derive(found[i].seed, "rollout", count) for i, count in places]
        rolled = policy.go_on(prefixes, self.rollouts, seeds=own) if prefixes else []
        groups = []
        for (i, count), continued in zip(places, rolled, strict=True):
            start = found[i].solution.cut(count)
            whole = tuple(self._joined(start, each, policy) for each in continued)
            groups.append(replace(found[i].group, completions=whole))
        groups += [replace(each.group, completions=(each.solution,)) for each in found]
        values = [[self._is_right(score) for score in some] for some in self.reward.score(groups, policy)]
        by_step = iter(values)
        labels = [[self._label(next(by_step)) for _ in each.counts[:-1]] for each in found]
        return [[*some, *next(by_step)] for some in labels]

    @staticmethod
    def _joined(start: Completion, continued: Completion, policy: Policy) -> Completion:
        """The beginning and its continuation as one answer, with the text that its tokens are."""
        tokens = start.tokens + continued.tokens
        strings: Any = policy.info().token_strings
        kept = tokens[:-1] if continued.finished else tokens  # the end has no text
        return Completion(tokens, "".join(strings(kept)).strip(), continued.finished)

    def _is_right(self, score: Score) -> float:
        return float(score.value is not None and score.value >= self.right)

    def _label(self, right: Sequence[float]) -> float:
        return max(right) if self.hard else sum(right) / len(right)

    def _steps(self, rolled: _Rolled, labels: Sequence[float]) -> Group:
        starts = [0, *rolled.counts]
        texts = steps_of(rolled.solution.text, self.separator)
        steps = tuple(
            Completion(rolled.solution.tokens[start:end], text, finished=False)
            for text, start, end in zip(texts, starts, rolled.counts, strict=False)
        )
        return replace(rolled.group, completions=steps, scores=tuple(map(Score, labels)))
