"""What methods with a limit share: a cost among a run's rewards, and a multiplier that learns."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from alignzoo import Batch, PluginError, StepReport
from alignzoo.interfaces import CheckContext
from alignzoo.types import FloatN

log = logging.getLogger("alignzoo")

EXCESS = "excess"
"""The column and metric of what a cost has above its limit."""


def check_named(name: str, rewards: Collection[str]) -> None:
    """Raise PluginError for a reward that the run does not have."""
    if name not in rewards:
        known = ", ".join(sorted(rewards)) or "none"
        raise PluginError(f"the run has no reward {name!r}, it has: {known}. Name one of them, or add it to reward")


def source(batch: Batch, name: str) -> FloatN:
    """One of the run's rewards, (N,), NaN where it abstained. Raises PluginError for a name that the run does not
    have."""
    check_named(name, batch.sources)
    return batch.sources[name]


def tell_of_one(context: CheckContext, trains: str) -> None:
    """Warn where a method of several rewards has one."""
    if len(context.rewards) == 1:
        log.warning("there is one reward, and so %s: give others beside it, reward=[..., {name=...}]", trains)


@functools.cache
def _tell_that_nothing_is_limited() -> None:
    """Once in a process."""
    log.warning(
        "there is one reward, and so no cost whose mean is held to a limit: this trains as without one. Give a second "
        "reward, reward=[..., {name=...}], or name the one that is a cost by optimizer.cost"
    )


@dataclass(frozen=True)
class Limited:
    """A limit on a reward that counts as a cost, with a multiplier λ: ln λ grows by rate·λ·(cost - limit) in a step.

    What is optimised is (r - λ·(c - d))/(1 + λ), r the weighted sum of the rewards that are no cost: Dai et al. 2023,
    Safe RLHF (arXiv:2310.12773) sec. 3.3.
    """

    cost: str = field(default="", kw_only=True)
    """Which of the run's rewards is the cost, by name; its weight there does not count. Empty: the last of
    several; one reward alone is no cost, and then there is no limit."""
    limit: float = field(default=0.0, kw_only=True)
    """d, what the mean cost may be at most."""
    multiplier: Annotated[float, Ge(0)] = field(default=1.0, kw_only=True)
    """λ, which moves from step to step: where it begins."""
    rate: Annotated[float, Gt(0)] = field(default=0.1, kw_only=True)
    """How fast ln λ follows the cost's excess over its limit."""
    largest: Annotated[float, Gt(0)] = field(default=5.0, kw_only=True)
    """λ does not grow above this."""

    def check(self, context: CheckContext) -> None:
        """Raise PluginError where the run has no reward of the cost's name."""
        if self.cost and context.rewards:
            check_named(self.cost, context.rewards)

    def excess(self, cost: FloatN) -> FloatN:
        """What of a cost counts against an answer, (N,)."""
        return cost - self.limit

    def constrained(self, batch: Batch) -> tuple[Batch, FloatN]:
        """The batch with the excess in `extra`, without answers whose cost is not known; and (r - λ·excess)/(1 + λ) of
        each answer that is left."""
        if not self.cost and len(batch.sources) < 2:
            _tell_that_nothing_is_limited()
            return replace(batch, extra={**batch.extra, EXCESS: batch.rewards * 0}), batch.rewards
        name = self.cost or list(batch.sources)[-1]
        cost = source(batch, name)
        rewards = batch.rewards - batch.source_weights.get(name, 1.0) * cost
        excess = self.excess(cost)
        rewards = (rewards - self.multiplier * excess) / (1 + self.multiplier)
        known = ~cost.isnan()
        return replace(batch, extra={**batch.extra, EXCESS: excess}).select(known), rewards[known]

    def measured(self, batch: Batch) -> dict[str, Tensor]:
        """The metrics: what the multiplier learns by, and itself, of each row."""
        excess = batch.extra[EXCESS]
        return {EXCESS: excess, "multiplier": torch.full_like(excess, self.multiplier)}

    def next(self, report: StepReport) -> Self:
        """With a multiplier that has followed this step's mean excess."""
        excess = report.metrics.get(EXCESS)
        if excess is None:  # a step without answers
            return self
        grown = math.exp(min(max(self.rate * self.multiplier * excess, -5.0), 5.0))
        return replace(self, multiplier=min(self.multiplier * grown, self.largest))
