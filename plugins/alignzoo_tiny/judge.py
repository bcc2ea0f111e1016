"""The principles of the embedded tasks as a judge, asked by their names."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from alignzoo import Policy, Prompt, Question, Text, Verdict
from alignzoo_tiny import revising
from alignzoo_tiny.principles import principles
from alignzoo_tiny.world import question


@dataclass(frozen=True)
class RulesJudge:
    """The rules of the embedded tasks, one for each principle. The judge is a program, not a model and not a person.

    It knows the world's grammar, so it is never wrong, cannot be talked round, and does not mind which answer is shown
    first; a judge that is a model does all three. It goes by the principle's name alone (on `safe` polite, harmless,
    non_evasive, brief, fluent; on `shop` helpful instead of harmless; on `sort` helpful), not by its words, and
    abstains on principles that it has no rule for. Without a name it judges by all of them: their sum for a pair,
    their mean for one answer. It can also write, on `safe`: critiques that name what breaks a rule, and revisions that
    mend just that.

    One answer: (1 + v) / 2, where v is the rule's judgement, cut to -1 and 1. Two: σ((v₁ - v₂) / noise).
    """

    noise: Annotated[float, Ge(0)] = 0.0
    """Pairs: how unsure it is; 1 is Bradley-Terry on the judgements, 0 always sure: 1, 0, or 0.5 for equals."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [self._verdict(asked) for asked in questions]

    def write(self, conversations: Sequence[Text], policy: Policy | None, *, seeds: Sequence[int]) -> list[str]:
        """Critiques and revisions by the constitution `safe`, from the same rules."""
        turns = [({"role": "user", "content": each},) if isinstance(each, str) else each for each in conversations]
        return [revising.write(each, random.Random(seed)) for each, seed in zip(turns, seeds, strict=True)]

    def _verdict(self, asked: Question) -> Verdict:
        name, prompt = asked.name.replace("-", "_"), question(Prompt(asked.prompt))
        rules = principles(prompt)
        if name and name not in rules:
            return Verdict("abstain", note=f"there is no rule for {asked.name!r}, only {', '.join(rules)}")
        names = [name] if name else list(rules)
        values = [sum(rules[each](prompt, answer) for each in names) for answer in asked.answers]
        told = " to ".join(f"{value:g}" for value in values)
        if len(values) == 1:
            mean = min(max(values[0] / len(names), -1.0), 1.0)
            return Verdict("value", (1 + mean) / 2, told)
        return Verdict("value", self._preference(values[0] - values[1]), told)

    def _preference(self, margin: float) -> float:
        if not self.noise:
            return 0.5 + 0.5 * ((margin > 0) - (margin < 0))
        return 0.5 + 0.5 * math.tanh(margin / (2 * self.noise))  # σ(x), which does not overflow
