"""The algorithm `pl-dpo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class PLDPO:
    """Direct preference optimization on whole rankings, by the model of Plackett and Luce.

    -Σ_k log( e^{r̂_k} / Σ_{l ≥ k} e^{r̂_l} ), answers in the order of their ranks, r̂ = β·log π(y|x)/π_ref(y|x).

    Rafailov et al. 2023 (arXiv:2305.18290) app. A.3; of pairs it is DPO. Answers that are ranked alike are each
    compared with all that are ranked below, and not with one another.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.untied(batch)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        pairs, size = rankings.ranked_pairs(batch), rankings.rounding(batch, out.logprobs, self.beta)
        return Terms(rankings.plackett_luce(reward, batch), {"accuracy": rankings.ranked_right(pairs, reward, size)})
