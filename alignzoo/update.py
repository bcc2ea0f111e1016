"""One update of the weights: micro-batches that add up, the optimizer's loss, clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from alignzoo import functional as fn
from alignzoo import processes
from alignzoo.collate import ANSWERED, Known, known_rows, only, trim, widen
from alignzoo.evaluate import Figures, reduced
from alignzoo.importance import importance
from alignzoo.interfaces import Optimizer, Policy
from alignzoo.room import NoRoomError, Room
from alignzoo.schedule import Schedule
from alignzoo.types import Batch, FloatNT, Forward

NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Once:
    """What need not be computed twice where a batch is used for a single update."""

    late: frozenset[str] = NONE
    """Columns of before the update, to be taken from the forward pass that is learnt from: they are the same."""
    ahead: Forward | None = None
    """That pass, where it has been computed already."""


@dataclass(frozen=True)
class Updated:
    """What an update has come to."""

    figures: Figures
    """The loss, the optimizer's metrics, the entropy, the gradient's norm before clipping."""
    batch: Batch
    """This process's rows of the minibatch."""
    logprobs: FloatNT | None
    """What the policy said of them before the step, where the optimizer asked."""

    def said(self) -> Known:
        """The log-probabilities before the step, of all processes, by row."""
        own = {} if self.logprobs is None else known_rows(self.batch, self.logprobs)
        return dict(processes.gather(list(own.items())))


def adamw_of(policy: Policy, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW over what the policy trains, in one kernel where the device has it."""
    fused = policy.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(policy.parameters(), betas=schedule.betas, weight_decay=schedule.weight_decay, fused=fused)


def asked(needs: frozenset[str]) -> frozenset[str]:
    """The columns that an update asks the policy for: what the optimizer needs, and the entropy to watch."""
    columns = needs & set(ANSWERED)
    return columns | {"entropy"} if "logprobs" in columns else columns


def now(out: Forward, late: frozenset[str], batch: Batch) -> Mapping[str, Any]:
    """The columns that speak of the time before the update, from its own forward pass over (part of) the batch."""
    width = batch.tokens.shape[1]
    return {name: widen(getattr(out, name.removeprefix("old_")).detach(), width) for name in late}


def update(
    policy: Policy,
    optimizer: Optimizer,
    minibatch: Batch,
    adamw: torch.optim.Optimizer,
    lr: float,
    schedule: Schedule,
    room: Room,
    once: Once,
) -> Updated:
    """One update of the weights. Micro-batches and processes are partial sums of Σ weights·terms / N."""
    couples = getattr(optimizer, "couples", "group")
    share = processes.deal_groups(minibatch, couples=couples)
    work = _Work(policy, optimizer, len(minibatch), float(minibatch.mask.sum()), schedule.importance_cap, once.late)
    ahead = once.ahead
    while True:
        adamw.zero_grad()
        try:
            figures, logprobs = work.gradients(share, room, couples, ahead)
            break
        except NoRoomError:
            ahead = None
    figures = processes.total(figures)
    figures["grad_norm"] = _apply(adamw, lr, schedule.max_grad_norm)
    return Updated(figures, share, logprobs)


@dataclass(frozen=True)
class _Work:
    """What all micro-batches of an update have in common."""

    policy: Policy
    optimizer: Optimizer
    rows: int
    """Of the minibatch, over all processes."""
    tokens: float
    """Of its completions."""
    importance_cap: float
    late: frozenset[str]

    def gradients(
        self, share: Batch, room: Room, couples: str, ahead: Forward | None
    ) -> tuple[Figures, FloatNT | None]:
        """Added up in place over micro-batches; this process's part of the figures, and what the policy said.

        The largest goes first: what does not fit is known at once, and the others find room where it was.
        """
        sums: dict[str, list[torch.Tensor]] = {}
        said: dict[int, torch.Tensor] = {}
        micros = [share] if ahead is not None else room.chunks(share, couples=couples)
        largest_first = sorted(enumerate(micros), key=lambda numbered: -int(numbered[1].attend.sum()))
        for number, micro in largest_first if len(share) else ():
            with room.trying(micro, couples=couples):
                micro = trim(micro)
                out = self.policy.forward(micro, asked(self.optimizer.needs)) if ahead is None else ahead
                for name, value in self._learn(micro, out).items():
                    sums.setdefault(name, []).append(value)
            if out.logprobs is not None:
                said[number] = widen(out.logprobs.detach(), share.tokens.shape[1])
            del out
        figures = {name: float(torch.stack(values).double().sum()) for name, values in sums.items()}
        return figures, torch.cat([said[number] for number in sorted(said)]) if said else None

    def _learn(self, micro: Batch, out: Forward) -> dict[str, torch.Tensor]:
        """The backward pass of one micro-batch; its part of the figures."""
        needs = self.optimizer.needs
        micro = only(replace(micro, **now(out, self.late, micro)), needs)
        terms = self.optimizer.loss(micro, out if "entropy" in needs else replace(out, entropy=None))
        cost, corrected = terms.loss, {}
        if self.importance_cap:
            weights = importance(terms, micro, out, self.importance_cap)
            cost, corrected = cost * weights, {"importance": weights}
        loss = fn.weigh(cost, micro.weights, micro.mask) / self.rows
        loss.backward()  # type: ignore[no-untyped-call]
        parts = {name: reduced(column, micro) / self.rows for name, column in terms.metrics.items()}
        parts["loss"] = loss.detach()
        if out.entropy is not None:
            parts["entropy"] = out.entropy.detach().sum() / self.tokens
        for name, column in corrected.items():
            parts[name] = (column * micro.mask).sum() / self.tokens
        return parts


def _apply(adamw: torch.optim.Optimizer, lr: float, max_norm: float) -> float:
    """Sum gradients over processes, clip them, and step. The norm before clipping comes back."""
    trained = [parameter for group in adamw.param_groups for parameter in group["params"]]
    processes.sum_gradients(trained)
    norm = torch.nn.utils.clip_grad_norm_(trained, max_norm or math.inf)
    for group in adamw.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if torch.isfinite(norm):
        adamw.step()
    return float(norm)
