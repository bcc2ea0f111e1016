"""The algorithm `dro-v`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings


@dataclass(frozen=True)
class DROV:
    """Direct reward optimisation: single answers with a reward each, and a value of the prompt.

    ½·(r - V(x) - τ·log π(y|x)/π_ref(y|x))², averaged over answers; policy and value learn from it together.

    Richemond et al. 2024 (arXiv:2405.19107) eq. 4: where it is 0 for all answers, the policy is the one that is best
    under the KL constraint, and V its value. V is the critic's at the answer's first token; policy and critic share a
    trunk where the policy has it so, theirs do not.
    """

    tau: Annotated[float, Gt(0)] = 1.0
    """τ, what a nat of KL to the reference costs in the reward's unit."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs", "values"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "tau"
    couples: ClassVar[str] = "row"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"tau": (0.1, 10.0)}

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        first = batch.mask.long().argmax(1)
        value = out.values.gather(1, first[:, None]).squeeze(1)  # (N,), V(x)
        error = batch.rewards - value - rankings.implicit_reward(batch, out.logprobs, self.tau)
        return Terms(error**2 / 2, {"error": error.abs(), "value": value})
