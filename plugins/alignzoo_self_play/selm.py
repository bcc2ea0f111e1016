"""The algorithm `selm`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class SELM:
    """A self-exploring language model: direct preference optimization that is optimistic about what was not tried.

    -log σ(β·(Δ_w - Δ_l)) + α·β·Δ(y'), Δ = log π(y|x)/π_ref(y|x), y' an answer that the reference generated.

    Zhang et al. 2024 (arXiv:2405.19332), the objective of SELM as their code has it. Answers that were seen already
    become less likely, all alike, so that others are tried. The reference is the policy at the start of a round, which
    has generated the group: Δ(y') is the mean over the group, of which the best and the worst are the pair.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    alpha: Annotated[float, Ge(0)] = 0.001
    """α, the optimism."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (0.0001, 0.1), "beta": (0.005, 0.5)}

    def prepare(self, batch: Batch) -> Batch:
        batch = fn.untied(batch)
        side = rankings.best_of_group(batch) - rankings.best_of_group(replace(batch, rewards=-batch.rewards))
        return replace(batch, extra={**batch.extra, "side": side})  # 1 the best, -1 the worst, 0 the others

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = rankings.implicit_reward(batch, out.logprobs, self.beta)
        margin = fn.group_mean(batch.extra["side"] * reward, batch.group) * fn.group_size(batch.group)
        cost = -logsigmoid(margin) + self.alpha * reward
        return Terms(cost, {"margin": margin, "accuracy": (margin > 0).float()})
