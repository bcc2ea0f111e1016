"""The optimizer `modpo`: multi-objective DPO."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignzoo import Batch, PluginError
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext
from alignzoo_preference.pairs import Pairs, ReferencePairLoss

log = logging.getLogger("alignzoo")


@dataclass(frozen=True)
class MODPO(ReferencePairLoss):
    """Multi-objective DPO: preferences of one kind, and for each answer what other rewards say of it.

    -log σ( (β·(Δw - Δl) - Σ_k w_k·(r_k(yw) - r_k(yl)))/w ), Δ = log π(y|x) - log π_ref(y|x), w = 1 - Σ_k w_k.

    Zhou et al. 2023 (arXiv:2310.03708) eq. 8, and their code, which was read. The other rewards are rewards of the
    run, given there the weight 0, so that the labels alone say which answer of a pair is the better one. Without others
    this is DPO.
    """

    others: tuple[str, ...] = ()
    """The other rewards, by their names in the run."""
    weights: tuple[Annotated[float, Ge(0)], ...] = ()
    """w_k of each of `others`, in their order, together below 1; not given: equal shares with the preferences."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.others):
            raise ValueError(f"weights has {len(self.weights)} numbers for {len(self.others)} others: one for each")
        if sum(self.weights) >= 1:
            raise ValueError(f"weights add up to {sum(self.weights):g} and leave nothing of 1 for the preferences")

    def check(self, context: CheckContext) -> None:
        """Raise PluginError where the run has no reward of one of these names; warn where there are no others."""
        if not self.others:
            log.warning("optimizer.others names no other reward, and so the preferences alone count: name some")
        for name in self.others:
            if context.rewards and name not in context.rewards:
                raise self._unknown(name, context.rewards)

    @staticmethod
    def _unknown(name: str, rewards: Iterable[str]) -> PluginError:
        known = ", ".join(sorted(rewards)) or "none"
        return PluginError(f"the run has no reward {name!r}, it has: {known}. Name one of them in others")

    def shares(self) -> tuple[float, ...]:
        """w_k of each other reward."""
        return self.weights or (1 / (1 + len(self.others)),) * len(self.others)

    def prepare(self, batch: Batch) -> Batch:
        others = torch.zeros_like(batch.rewards)
        for name, weight in zip(self.others, self.shares(), strict=True):
            if name not in batch.sources:
                raise self._unknown(name, batch.sources)
            others = others + weight * batch.sources[name].nan_to_num(nan=0.0)
        return fn.best_and_worst(replace(batch, extra={**batch.extra, "others": others}))

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return -logsigmoid(better - worse)

    def rewards(self, pairs: Pairs) -> Tensor:
        return (self.beta * pairs.log_ratio - pairs.extra["others"]) / (1 - sum(self.shares()))

    def rounding(self, pairs: Pairs) -> Tensor:
        return (self.beta * pairs.size + pairs.extra["others"].abs()).sum(0)
