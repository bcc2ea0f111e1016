"""What losses over preference pairs share: the pairs of a batch, and the step from a pair's cost to the rows' terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class Pairs:
    """The P pairs of a batch, each column (2, P): `better, worse = pairs.length`."""

    logprob: Tensor
    """log π(y|x), the sum over the answer's tokens."""
    log_ratio: Tensor
    """log π(y|x)/π_ref(y|x), the sum over the answer's tokens; without a reference the same as `logprob`."""
    size: Tensor
    """The sum of the absolute values that `log_ratio` is made of, to which its rounding is in proportion."""
    length: Tensor
    """|y|, the number of tokens that are trained on."""
    score: Tensor
    """The reward that the answer came with."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """The numeric columns of the data."""


def paired(batch: Batch, out: Forward) -> Pairs:
    """The pairs of a batch whose rows 2i and 2i+1 are the better and the worse answer of one pair."""
    ref = torch.zeros_like(out.logprobs) if batch.ref_logprobs is None else batch.ref_logprobs
    columns = (
        torch.where(batch.mask, out.logprobs, 0.0).sum(1),
        fn.log_ratio(out.logprobs, ref, batch.mask).sum(1),
        torch.where(batch.mask, out.logprobs.abs() + ref.abs(), 0.0).sum(1),
        batch.mask.sum(1).clamp(min=1).to(out.logprobs.dtype),
        batch.rewards.to(out.logprobs.dtype),
    )
    extra = {name: column.reshape(-1, 2).T for name, column in batch.extra.items()}
    return Pairs(*(column.view(-1, 2).T for column in columns), extra)


def on_both_rows(of_pair: Tensor) -> Tensor:
    """A number of each pair on both of its rows, (2P,), so that the mean over rows is the mean over pairs."""
    return of_pair.repeat_interleave(2)


@dataclass(frozen=True)
class PairLoss:
    """A loss over pairs: the best and the worst answer of each group. A subclass says what a pair costs, and how it
    rewards an answer."""

    epochs: Annotated[int, Ge(1)] = field(default=1, kw_only=True)
    """Passes over each batch of groups."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    completions: ClassVar[int] = 2

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch)

    def cost(self, pairs: Pairs) -> Tensor:
        """What each pair costs, (P,)."""
        raise NotImplementedError

    def rewards(self, pairs: Pairs) -> Tensor:
        """The implicit rewards of both answers, (2, P)."""
        raise NotImplementedError

    def loss(self, batch: Batch, out: Forward) -> Terms:
        pairs = paired(batch, out)
        better, worse = self.rewards(pairs)
        accuracy = fn.preferred(better - worse, self.rounding(pairs))
        figures = {"margin": better - worse, "accuracy": accuracy, "reward_chosen": better, "reward_rejected": worse}
        return Terms(on_both_rows(self.cost(pairs)), {name: on_both_rows(each) for name, each in figures.items()})

    def rounding(self, pairs: Pairs) -> Tensor:
        """What the rounding of a margin is in proportion to, (P,)."""
        return self.rewards(pairs).abs().sum(0)


@dataclass(frozen=True)
class ReferencePairLoss(PairLoss):
    """A loss over pairs whose implicit reward is β times the log-ratio to the reference."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the KL constraint: the smaller, the further the policy may go from the reference."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})
    kl_weight: ClassVar[str] = "beta"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"beta": (0.01, 0.5)}

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.log_ratio

    def rounding(self, pairs: Pairs) -> Tensor:
        return self.rewards(replace(pairs, log_ratio=pairs.size)).abs().sum(0)


@dataclass(frozen=True)
class ShiftedPairLoss(ReferencePairLoss):
    """A loss over pairs that holds each implicit reward against their running mean, the reward shift δ."""

    shift_rate: Annotated[float, Ge(0)] = 0.1
    """How fast δ follows the mean of the implicit rewards, per step; 0 keeps it where it is."""
    shift: float = 0.0
    """δ, which moves from step to step: where it begins."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        mean = self.rewards(paired(batch, out)).detach().mean(0)
        return replace(terms, metrics={**terms.metrics, "implicit_reward": on_both_rows(mean)})

    def next(self, report: StepReport) -> ShiftedPairLoss:
        mean = report.metrics.get("implicit_reward", self.shift)  # a step without pairs has none
        return replace(self, shift=self.shift + self.shift_rate * (mean - self.shift))


@dataclass(frozen=True)
class TracksGaps(ReferencePairLoss):
    """A loss over pairs that holds each pair's gap against the running mean and standard deviation of gaps."""

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """κ: how much of the running mean and deviation a step keeps, once many are in them."""
    gap_mean: float = 0.0
    """The running mean of gaps, which moves from step to step: where it begins."""
    gap_deviation: Annotated[float, Ge(0)] = 0.0
    """The running standard deviation of gaps, likewise."""
    steps_seen: Annotated[int, Ge(0)] = 0
    """How many steps are in both."""
    couples: ClassVar[str] = "minibatch"

    def gaps(self, pairs: Pairs) -> Tensor:
        """How far apart each pair's answers are, (P,)."""
        raise NotImplementedError

    def usual(self, gap: Tensor) -> tuple[Tensor, Tensor]:
        """The running mean and standard deviation with this minibatch's gaps in them."""
        return self._moved(gap.mean(), gap.std(correction=0))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        gap = on_both_rows(self.gaps(paired(batch, out)).detach())
        return replace(terms, metrics={**terms.metrics, "gap": gap, "gap_square": gap**2})

    def next(self, report: StepReport) -> TracksGaps:
        if "gap" not in report.metrics:  # a step without pairs
            return self
        mean = report.metrics["gap"]
        mean, deviation = self._moved(mean, max(report.metrics["gap_square"] - mean**2, 0.0) ** 0.5)
        return replace(self, gap_mean=mean, gap_deviation=deviation, steps_seen=self.steps_seen + 1)

    def _moved(self, mean: Any, deviation: Any) -> tuple[Any, Any]:
        """Towards these by (1-κ)/(1-κᵗ) in step t, so that the first steps are not held back by where it began."""
        rate = (1 - self.momentum) / (1 - self.momentum ** (self.steps_seen + 1))
        return self.gap_mean + rate * (mean - self.gap_mean), self.gap_deviation + rate * (
            deviation - self.gap_deviation
        )


@dataclass(frozen=True)
class TiedPairLoss(ReferencePairLoss):
    """A loss over pairs of which some are ties: answers with the same score, which other losses leave out."""

    def prepare(self, batch: Batch) -> Batch:
        return fn.best_and_worst(batch, ties=True)

    def win(self, margin: Tensor) -> Tensor:
        """What a pair costs whose first answer is the better one, (P,)."""
        raise NotImplementedError

    def tie(self, margin: Tensor) -> Tensor:
        """What a tie costs, (P,)."""
        raise NotImplementedError

    def cost(self, pairs: Pairs) -> Tensor:
        better, worse = self.rewards(pairs)
        return torch.where(pairs.score[0] == pairs.score[1], self.tie(better - worse), self.win(better - worse))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        tied = on_both_rows(batch.rewards[0::2] == batch.rewards[1::2])
        accuracy = torch.where(tied, 0.5, terms.metrics["accuracy"])  # there is no right answer
        return replace(terms, metrics={**terms.metrics, "accuracy": accuracy, "tied": tied.float()})
