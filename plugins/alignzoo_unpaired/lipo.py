"""The algorithm `lipo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch.nn.functional import softplus

from alignzoo import Batch, Forward, Terms, rankings
from alignzoo_unpaired.shared import ListedByReference


@dataclass(frozen=True)
class LiPO(ListedByReference):
    """Listwise preference optimization LiPO-λ: all pairs, those first that matter most to the head of the list.

    Σ_{r_i > r_j} Δ_ij·log(1 + e^{-(s_i - s_j)}), Δ_ij = |2^{r_i} - 2^{r_j}|·|1/log(1+τ_i) - 1/log(1+τ_j)|,
    s = β·log π(y|x)/π_ref(y|x), τ the place by s in the group, 1 the highest.

    Liu et al. 2024 (arXiv:2402.01878), the loss LiPO-λ, which is LambdaLoss. Equal s, as all are at the start, have
    places in the order of the group's rows. The gain is 2^r - 1 of rewards that are grades or lie between 0 and 1;
    others that grow large are better scaled.
    """

    beta: Annotated[float, Gt(0)] = 0.05
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    gain: bool = True
    """Weigh a pair by the difference of its gains; without, by its places alone."""
    laws: ClassVar[Mapping[str, str]] = {
        "ranking": "pairs weigh by the places that the policy gives now, so that a middle one may be pushed down most",
        "baseline": "gains are powers of 2, so that 3 more in each reward weighs 8 times",
    }

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward, pairs = self.reward(batch, out), rankings.ranked_pairs(batch)
        discount = 1 / torch.log1p(rankings.places(reward.detach(), batch.group))
        weight = pairs.gap(discount).abs()
        if self.gain:
            weight = weight * pairs.gap(torch.exp2(batch.rewards))
        return Terms(pairs.sums(weight * softplus(-pairs.gap(reward))), self.figures(batch, out))
