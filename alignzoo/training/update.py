"""One update of the weights: micro-batches that add up, the optimizer's loss, clipping, a torch optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from alignzoo import columns, processes
from alignzoo import functional as fn
from alignzoo.batching import only, trim, widen
from alignzoo.evaluation.answers import Figures
from alignzoo.evaluation.heldout import reduced
from alignzoo.interfaces import Optimizer, Policy
from alignzoo.microbatch import MicroBatcher, MicroBatchTooLarge, Round
from alignzoo.schedule import OffPolicy, Schedule
from alignzoo.training.importance import cut, importance
from alignzoo.traits import traits_of
from alignzoo.types import Batch, FloatNT, Forward

NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Deferred:
    """Columns of before the step that its only update answers, so that they need not be computed twice."""

    names: frozenset[str] = NONE
    """Which: they are what the forward pass that is trained on says."""
    ahead: list[Forward] = field(default_factory=list)
    """That pass, where it has been computed already; the update takes it out, so that nothing else keeps its graph when
    memory is short."""


@dataclass(frozen=True)
class Updated:
    """What an update has come to."""

    figures: Figures
    """The loss, the optimizer's metrics, the entropy, the gradient's norm before clipping."""
    logprobs: Mapping[int, FloatNT]
    """What the policy said before the step, where the optimizer asked: by the number of a row of this process."""

    def logprobs_by_row(self) -> list[tuple[int, Tensor]]:
        """The log-probabilities before the step, of all processes, each with its row's number."""
        if processes.count() == 1:
            return list(self.logprobs.items())
        own = {number: row.to("cpu", copy=True) for number, row in self.logprobs.items()}  # a view would send all rows
        return [pair for share in processes.everyones(own) for pair in share.items()]


def asked(needs: frozenset[str]) -> frozenset[str]:
    """The columns that an update asks the policy for: what the optimizer needs, and the entropy to watch."""
    wanted = columns.trained(needs)
    return wanted | {"entropy"} if "logprobs" in wanted or columns.compared(wanted) else wanted


def before_update(out: Forward, names: frozenset[str], batch: Batch) -> dict[str, Tensor]:
    """The columns that speak of the time before the update, from its own forward pass over (part of) the batch."""
    width = batch.tokens.shape[1]
    return {name: widen(out[columns.column(name).answer.name].detach(), width) for name in names}


def update(
    policy: Policy,
    optimizer: Optimizer,
    minibatch: Batch,
    lr: float,
    schedule: Schedule,
    batcher: MicroBatcher,
    deferred: Deferred,
) -> Updated:
    """One update of the weights. Micro-batches and processes are partial sums of Σ weights·terms / N."""
    couples = traits_of(optimizer).couples
    tokens = max(1.0, float((minibatch.mask & minibatch.own).sum()))
    work = _Work(policy, optimizer, len(minibatch), tokens, schedule, deferred.names)
    ahead = deferred.ahead.pop() if deferred.ahead else None
    if ahead is not None:
        rounds = [Round(minibatch)]
    elif batcher.agreed:
        rounds = batcher.rounds(minibatch, couples=couples)
    else:
        rounds = batcher.agree(lambda one: work.gradients([one], batcher, couples, None), minibatch, couples=couples)
    while True:
        policy.drop_gradients()
        try:
            figures, logprobs = work.gradients(rounds, batcher, couples, ahead)
            break
        except MicroBatchTooLarge:
            ahead = None
            rounds = [Round(part, each.idle) for each in rounds for part in batcher.cut(each.batch, couples=couples)]
    figures = processes.total(figures)
    figures["grad_norm"] = policy.step(lr, schedule.max_grad_norm)
    return Updated(figures, logprobs)


@dataclass(frozen=True)
class _Work:
    """What all micro-batches of an update have in common."""

    policy: Policy
    optimizer: Optimizer
    rows: int
    """Rows of the minibatch, over all processes."""
    tokens: float
    """Tokens of its completions that are trained on and the policy's own."""
    schedule: OffPolicy
    late: frozenset[str]

    def gradients(
        self, rounds: list[Round], batcher: MicroBatcher, couples: str, ahead: Forward | None
    ) -> tuple[Figures, dict[int, Tensor]]:
        """Added up over micro-batches; this process's part of the figures, and what the policy said of its rows.

        The largest goes first: what does not fit is known at once, and the others find room where it was.
        """
        sums: dict[str, list[Tensor]] = {}
        said: dict[int, Tensor] = {}
        for each in sorted(rounds, key=lambda one: -int(one.batch.attend.sum())):
            with batcher.trying(each.batch, couples=couples):
                micro = trim(each.batch)
                out = self.policy.forward(micro, asked(self.optimizer.needs)) if ahead is None else ahead
                if each.idle:
                    self.policy.backward(_nothing(out))
                    continue
                for name, value in self._train(micro, out).items():
                    sums.setdefault(name, []).append(value)
            if out.logprobs is not None:
                said |= dict(zip(micro.row.tolist(), out.logprobs.detach(), strict=True))
            del out
        return {name: float(torch.stack(values).double().sum()) for name, values in sums.items()}, said

    def _train(self, micro: Batch, out: Forward) -> dict[str, Tensor]:
        """The backward pass of one micro-batch; its part of the figures."""
        needs = frozenset(self.optimizer.needs)
        micro = only(micro.answered(before_update(out, self.late, micro)), needs)
        terms = self.optimizer.loss(micro, out if "entropy" in needs else replace(out, entropy=None))
        cost, corrected = terms.loss, {}
        if cap := self.schedule.importance_cap:
            mode, couples = self.schedule.importance_mode, traits_of(self.optimizer).couples
            weights = importance(terms, micro, out, cap, mode, couples=couples)
            cost, corrected = cost * weights, {"importance": weights, "importance/cut": cut(weights, cap, mode)}
        loss = fn.weigh(cost, micro.weights, micro.mask) / self.rows
        self.policy.backward(loss)
        parts = {name: reduced(column, micro) / self.rows for name, column in terms.metrics.items()}
        parts["loss"] = loss.detach()
        if out.entropy is not None:
            parts["entropy"] = (out.entropy.detach() * micro.own).sum() / self.tokens
        for name, column in corrected.items():
            each = column if column.ndim == 2 else column[:, None]
            parts[name] = (each * (micro.mask & micro.own)).sum() / self.tokens
        return parts


def _nothing(out: Forward) -> Any:
    """A loss of 0 that has gone through everything that was answered."""
    return sum((0 * column).sum() for column in out.columns().values())
