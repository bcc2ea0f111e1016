"""The algorithm `opo-ndcg`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from alignzoo import Batch, Forward, Terms
from alignzoo_unpaired.shared import ListedByReference


@dataclass(frozen=True)
class OPONDCG(ListedByReference):
    """Ordinal preference optimization: the ranking metric NDCG itself, made smooth.

    -Σ_k (P̂·g)_k / log₂(1+k) / (its largest value), g = 2^r - 1, P̂ the soft permutation that sorts a group by
    s = β·log π(y|x)/π_ref(y|x): rows softmax(((n + 1 - 2k)·s - Σ_j |s - s_j|)/τ), made doubly stochastic.

    Zhao et al. 2024 (arXiv:2410.04346), with NeuralNDCG (Pobrotyn and Białobrzeski 2021, arXiv:2102.07831) and Sinkhorn
    steps as their code has them. Its OPO is not the policy gradient of that name. A reward below 0 gains as 0 does.
    """

    tau: Annotated[float, Gt(0)] = 1.0
    """τ: small, the sorting is sharp and its gradient sparse."""
    sinkhorn: Annotated[int, Ge(0)] = 50
    """Steps towards a doubly stochastic permutation, at most."""
    laws: ClassVar[Mapping[str, str]] = {
        "baseline": "gains are powers of 2: the same for each reward changes their shares"
    }
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0), "tau": (0.1, 10.0)}

    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward, sizes = self.reward(batch, out), batch.group_sizes().tolist()
        groups = zip(torch.split(reward, sizes), torch.split(batch.rewards, sizes), strict=True)
        ndcg = [self._ndcg(scores, torch.exp2(given.clamp(min=0)) - 1).expand(len(given)) for scores, given in groups]
        cost = -torch.cat(ndcg) if ndcg else reward
        return Terms(cost, {"ndcg": -cost, **self.figures(batch, out)})

    def _ndcg(self, scores: Tensor, gains: Tensor) -> Tensor:
        """The soft NDCG of one group, a scalar; 0 where nothing gains."""
        place = torch.arange(1, len(scores) + 1, device=scores.device)
        discount = 1 / torch.log2(1 + place)
        apart = (scores[:, None] - scores).abs().sum(1)
        soft = torch.softmax(((len(scores) + 1 - 2 * place)[:, None] * scores - apart) / self.tau, 1)  # (place, answer)
        for _ in range(self.sinkhorn):
            soft = soft / soft.sum(0, keepdim=True).clamp(min=1e-10)
            soft = soft / soft.sum(1, keepdim=True).clamp(min=1e-10)
            if float((soft.detach().sum(0) - 1).abs().max()) < 1e-6:
                break
        best = (gains.sort(descending=True).values * discount).sum()
        return ((soft @ gains) * discount).sum() / best.clamp(min=1e-10)
