"""The algorithm `copg`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo import functional as fn


@dataclass(frozen=True)
class CoPG:
    """Contrastive policy gradient: each answer's baseline is the other one's reward, whoever generated them.

    -(R_i - R_j)·(log π(y_i) - log π(y_j)), R = r - β·log π(y|x)/π_ref(y|x), through which no gradient goes, over all
    pairs of a group.

    Flet-Berliac et al. 2024 (arXiv:2406.19185), the gradient of CoPG: a policy gradient for off-policy answers, without
    importance weights. Its gradient is that of (R_i - R_j)² / 2β with the gradient through R, as Command A
    (arXiv:2504.00698) states the loss; on preferences it is IPO.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """β, what a nat of KL to the reference costs in the reward's unit."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "beta"
    completions: ClassVar[int] = 2
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0)}

    def prepare(self, batch: Batch) -> Batch:
        return batch.select(fn.group_size(batch.group) > 1)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = rankings.all_pairs(batch)
        penalised = batch.rewards - rankings.implicit_reward(batch, out.logprobs, self.beta)
        contrast = pairs.gap(penalised).detach()
        likelihood, _ = rankings.likelihood(batch, out.logprobs)
        return Terms(pairs.means(-contrast * pairs.gap(likelihood)), {"contrast": pairs.means(contrast.abs())})
