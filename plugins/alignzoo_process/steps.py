"""The sampler `steps`: each step of a labelled solution, with what comes before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import ClassVar

from alignzoo import DataError, Group, Policy, Prompt, Score
from alignzoo.interfaces import CheckContext

FEW = 4
"""So many rows, all of two steps of which one is wrong, are hardly solutions."""


@dataclass(frozen=True)
class Steps:
    """A prompt's completions are the steps of one solution, in order, and its labels say how good each of them is.

    Every step becomes a row: the solution up to there, with the step's label for its score. So a model that reads the
    last token of each row reads each step's end, as a head on every token would (Lightman et al. 2023,
    arXiv:2305.20050). Data of this shape are PRM800K's as TRL has them
    (`data.format = "stepwise"`), and what `math-shepherd` leaves.
    """

    separator: str = "\n"
    """What stands between two steps."""
    online: ClassVar[bool] = False
    from_data: ClassVar[bool] = True
    brings_scores: ClassVar[bool] = True

    def check(self, context: CheckContext) -> None:
        """Raise DataError where all rows look like preference pairs, whose answers would be read as two steps."""
        rows = list(islice(context.prompts, 1000))
        if len(rows) >= FEW and all(len(row.completions) == 2 and sorted(row.labels) == [0.0, 1.0] for row in rows):
            raise DataError(
                f"each of the first {len(rows)} rows has two completions, one labelled 1 and the other 0, as a "
                "preference pair has. The sampler 'steps' would read them as two steps of a solution, one of them "
                "wrong: give data with the steps of a solution and a label of each, or train a reward model that "
                "reads pairs"
            )

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        return [self._group(prompt, policy) for prompt in prompts]

    def _group(self, prompt: Prompt, policy: Policy) -> Group:
        if not prompt.completions or len(prompt.labels) != len(prompt.completions):
            raise DataError(
                f"{len(prompt.completions)} steps but {len(prompt.labels)} labels for the prompt "
                f"{str(prompt.messages)[:80]!r}: give data with prompt, completions (the steps) and labels, one "
                "for each, as the format stepwise has them"
            )
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in prompt.completions]
        whole = list(accumulate(texts, lambda before, step: before + self.separator + step))
        chat = not isinstance(prompt.messages, str)
        given = [({"role": "assistant", "content": text},) if chat else text for text in whole]
        group = policy.encode(prompt, given)
        last = len(whole) - 1
        rows = tuple(
            each if place == last or not each.finished else each.cut(len(each.tokens) - 1)
            for place, each in enumerate(group.completions)
        )
        return replace(group, completions=rows, scores=tuple(Score(label) for label in prompt.labels))
