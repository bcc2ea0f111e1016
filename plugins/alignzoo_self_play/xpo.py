"""Optimizer `xpo`: online preferences with a bonus for exploration, and the sampler `and-reference` that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Group, PluginError, Policy, Prompt, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext

COLUMN = "by_reference"


@dataclass(frozen=True)
class AndReference:
    """One answer of the policy and one of its reference to each prompt, marked by the column `by_reference`."""

    online: ClassVar[bool] = True
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        own = policy.generate(prompts, 1, seeds=[fn.derive(seed, "policy") for seed in seeds])
        with policy.answering("ref"):
            others = policy.generate(prompts, 1, seeds=[fn.derive(seed, "reference") for seed in seeds])
        return [_pair(one, other) for one, other in zip(own, others, strict=True)]


def _pair(own: Group, other: Group) -> Group:
    """What the reference has generated carries no log-probabilities: they would be taken for the policy's own."""
    given = tuple(replace(completion, logprobs=None) for completion in other.completions)
    return replace(own, completions=own.completions + given, extra={COLUMN: (0.0, 1.0)})


@dataclass(frozen=True)
class XPO:
    """-log σ(β·(Δ_w - Δ_l)) + α·log π(ỹ), Δ = log π/π_ref of a whole answer, ỹ the reference's own of the two.

    Xie et al. 2024 (arXiv:2405.21046) algorithm 1, line 7: with ỹ ~ π_ref, raising what the reference would not say is
    optimism. Sums over a step where theirs is over all data so far.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """β, the weight of the KL to the reference."""
    alpha: Annotated[float, Ge(0)] = 1e-3
    """α, the weight of the bonus, in 1 per nat."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    online: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1), "alpha": (1e-05, 0.01)}
    columns: ClassVar[Mapping[str, tuple[float, ...]]] = {COLUMN: (0.0, 1.0)}

    def check(self, context: CheckContext) -> None:
        """Raise PluginError where nobody brings the reference's answers."""
        if not context.brings(COLUMN):
            raise PluginError(
                "xpo explores away from answers of the reference, and the stage's sampler brings none: set "
                "sampler=and-reference"
            )

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        away = fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask).sum(1)
        margin = self.beta * (away[0::2] - away[1::2])
        spoken = 2 * batch.extra[COLUMN] * (out.logprobs * batch.mask).sum(1)
        return Terms(self.alpha * spoken - torch.nn.functional.logsigmoid(margin).repeat_interleave(2))
