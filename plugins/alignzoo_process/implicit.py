"""The reward `implicit-prm`: a model's log-ratio to its reference, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from alignzoo import Completion, Context, Group, Policy, PolicySpec, Score, live_of
from alignzoo.batching import answer, collate
from alignzoo.microbatch import MicroBatcher


@dataclass(frozen=True)
class ImplicitReward:
    """An implicit process reward model: each token is worth how much likelier a model finds it than its reference.

    p_t = β·log π_φ(y_t|·)/π_ref(y_t|·), φ trained on outcomes alone, by the optimizer `implicit-prm` or by DPO.

    Yuan et al. 2024 (arXiv:2412.01981) eq. 3; as PRIME (arXiv:2502.01456) takes it in reinforcement learning. Both
    models have the policy's tokenizer.
    """

    model: PolicySpec
    """π_φ: a model's directory, or stage:NAME."""
    reference: PolicySpec
    """π_ref, from which φ was trained."""
    beta: Annotated[float, Gt(0)] = 0.05
    """β, the size of the reward per nat, as in the training of φ."""
    outcome: bool = False
    """Score the whole answer by the sum of its tokens' rewards, in the place of dense rewards."""
    batch: Annotated[int, Ge(1)] = 64
    """Completions scored at once."""

    def open(self, context: Context) -> tuple[Policy, Policy]:
        """Load both models, which are not to be trained."""
        return self.model.load(frozenset()), self.reference.load(frozenset())

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        both: tuple[Policy, Policy] = live_of(self)
        if not any(group.completions for group in groups):
            return [() for _ in groups]
        batch = collate(groups, scored=False)
        said = [
            answer(each, batch, frozenset({"logprobs"}), batcher=MicroBatcher(each, rows=self.batch))["logprobs"]
            for each in both
        ]
        dense = (self.beta * (said[0] - said[1]) * batch.mask.to(said[0].device)).tolist()
        rows = iter(dense)
        return [tuple(self._score(group, each, next(rows)) for each in group.completions) for group in groups]

    def _score(self, group: Group, given: Completion, row: Sequence[float]) -> Score:
        start = len(group.prompt_tokens)
        tokens = tuple(row[start : start + len(given.tokens)])
        return Score(sum(tokens)) if self.outcome else Score(None, tokens, {"sum": sum(tokens)})
