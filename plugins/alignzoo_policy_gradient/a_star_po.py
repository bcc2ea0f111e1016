"""The optimizer `a-star-po` on a page, and the sampler `with-optimal-value` that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, DataError, Forward, Group, PluginError, Policy, Prompt, Terms, rankings
from alignzoo.interfaces import CheckContext
from alignzoo.twins import Twin

COLUMN = "optimal_value"
"""V* of a row's prompt."""


@dataclass(frozen=True)
class WithOptimalValue:
    """The policy's answers to each prompt, with V* = β₁·log( mean of e^{r/β₁} ) over the answers that the data have.

    These answers and their rewards r are the reference's, as an earlier stage without an optimizer leaves them.
    """

    n: Annotated[int, Ge(1)] = 1
    """Answers per prompt; the paper's is 1."""
    beta: Annotated[float, Gt(0)] = 0.5
    """β₁: towards 0, V* is the best of the reference's rewards; towards infinity, their mean."""
    online: ClassVar[bool] = True
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        values = [self._value(prompt) for prompt in prompts]
        groups = policy.generate(prompts, self.n, seeds=seeds)
        return [replace(g, extra={COLUMN: (v,) * self.n}) for g, v in zip(groups, values, strict=True)]

    def _value(self, prompt: Prompt) -> float:
        if not prompt.labels:
            raise DataError(
                f"the prompt {str(prompt.messages)[:80]!r} has no scored answers to reckon its optimal value from: let "
                "the reference answer it first, in a stage with optimizer=none, as the recipe a-star-po does"
            )
        scaled = torch.tensor(prompt.labels, dtype=torch.float64) / self.beta
        return float(self.beta * (scaled.logsumexp(0) - torch.tensor(float(len(scaled))).log()))


@dataclass(frozen=True)
class AStarPO:
    """Optimal advantage regression: how much likelier an answer becomes is how much better it is than V*.

    (β₂·log π(y|x)/π_ref(y|x) - (r - V*(x)))², averaged over answers; V* as the sampler `with-optimal-value` has it.

    Brantley et al. 2025 (arXiv:2505.20686) algorithm 1, with β₂ of their code, which was read. One answer of each
    prompt is enough: there is neither group nor critic.
    """

    beta: Annotated[float, Gt(0)] = 1e-3
    """β₂, what a nat of KL to the reference costs in the reward's unit."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of completions."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (1e-4, 0.1)}
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.5, 1.0)}
    laws: ClassVar[Mapping[str, str]] = {"baseline": "V* is the prompt's, and is not shifted with the rewards"}

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the optimal values."""
        if not context.brings(COLUMN):
            raise PluginError(
                "a-star-po regresses on the optimal value of each prompt, which the stage's sampler does not bring: "
                "run the recipe a-star-po, or set sampler=with-optimal-value on data with scored answers"
            )

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=batch.rewards - batch.extra.get(COLUMN, torch.zeros_like(batch.rewards)))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        error = rankings.implicit_reward(batch, out.logprobs, self.beta) - batch.advantages
        return Terms(error**2, {"error": error.detach().abs()})

    def oracle(self) -> Twin:
        return Twin("trl", "alignzoo_trl.labels:a2po", {"beta2": self.beta}, rows="labels")
