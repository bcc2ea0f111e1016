"""Optimizer `tpo`: triple preference optimization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.twins import Twin
from alignzoo_preference.pairs import PairLoss, Pairs


@dataclass(frozen=True)
class TPO(PairLoss):
    """Triple preference optimization: imitate the best answer, and prefer the second best to the worst.

    -log σ(m - γ) - α·(1/|yg|)·log π(yg|x), m = β·(log π(yw|x) - log π(yl|x)), each divided by its |y| where lengths are
    normalised; yg is the best answer, yw the next and yl the worst of the others.

    Saeidi et al. 2024 (arXiv:2405.16681); TRL's `TPOTrainer`, whose last term is a mean over all tokens of the batch's
    best answers. Where fewer than three answers differ in reward, the best one is preferred, too.
    """

    beta: Annotated[float, Gt(0)] = 0.01
    """Scale of the log-probability, the implicit reward."""
    nll: Annotated[float, Ge(0)] = 1.0
    """α: weight of the best answer's negative log-likelihood per token."""
    length_normalised: bool = False
    """Whether the implicit reward is a mean over tokens: TPO-L."""
    gamma: Annotated[float, Ge(0)] = 0.0
    """γ: by how much the preferred answer has to win in implicit reward."""
    completions: ClassVar[int] = 3
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 1.0), "nll": (0.1, 2.0)}

    def prepare(self, batch: Batch) -> Batch:
        rows, start = [], 0
        for size in batch.group_sizes().tolist():
            rows += [start + row for row in triple(batch.rewards[start : start + size].tolist())]
            start += size
        return batch.select(torch.tensor(rows, dtype=torch.long, device=batch.tokens.device))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        best = torch.arange(len(batch), device=batch.tokens.device) % 3 == 0
        of_pair = super().loss(batch.select(~best), Forward(logprobs=out.logprobs[~best]))
        mean = (torch.where(batch.mask, out.logprobs, 0.0) * fn.sequence_mean(batch.mask)).sum(1)
        cost = of_pair.loss[0::2] - self.nll * mean[best]
        figures = {name: each[0::2].repeat_interleave(3) for name, each in of_pair.metrics.items()}
        return Terms(cost.repeat_interleave(3), figures)  # all three rows carry their triple's cost

    def oracle(self) -> Twin:
        kind = {"loss_type": "tpo-l", "tpo_l_gamma": self.gamma} if self.length_normalised else {"loss_type": "sigmoid"}
        settings = kind | {"beta": self.beta, "tpo_alpha": self.nll}
        return Twin("trl", "alignzoo_trl.pairs:tpo", settings, rows="groups", alike=True)

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse - self.gamma)

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * (pairs.logprob / pairs.length if self.length_normalised else pairs.logprob)


def triple(rewards: list[float]) -> list[int]:
    """The places of the best answer, of the next best and of the worst; none where all rewards are equal."""
    order = sorted(range(len(rewards)), key=lambda place: -rewards[place])
    best, worst = order[0], order[-1]
    if rewards[best] == rewards[worst]:
        return []
    preferred = order[1] if rewards[order[1]] > rewards[worst] else best
    return [best, preferred, worst]
