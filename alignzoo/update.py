"""One update of the weights: micro-batches that add up, the optimizer's loss, clipping, AdamW."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from alignzoo import functional as fn
from alignzoo import processes
from alignzoo.collate import ANSWERED, trim
from alignzoo.evaluate import Figures, reduced
from alignzoo.importance import importance
from alignzoo.interfaces import Optimizer, Policy
from alignzoo.schedule import Schedule
from alignzoo.types import Batch


def update(
    policy: Policy, optimizer: Optimizer, minibatch: Batch, adamw: torch.optim.Optimizer, lr: float, schedule: Schedule
) -> Figures:
    """One update of the weights. Micro-batches and processes are partial sums of Σ weights·terms / N."""
    couples = getattr(optimizer, "couples", "group")
    columns = optimizer.needs & set(ANSWERED)
    watched = columns | {"entropy"} if "logprobs" in columns else columns
    n = len(minibatch)
    share = processes.deal_groups(minibatch, couples=couples)
    figures: Figures = {}
    adamw.zero_grad()
    for micro in share.chunks(schedule.micro_batch, couples=couples) if len(share) else ():
        micro = trim(micro)
        out = policy.forward(micro, frozenset(watched))
        seen = out if "entropy" in columns else replace(out, entropy=None)
        terms = optimizer.loss(micro, seen)
        cost, corrected = terms.loss, {}
        if schedule.importance_cap:
            weights = importance(terms, micro, out, schedule.importance_cap)
            cost, corrected = cost * weights, {"importance": weights}
        loss = fn.weigh(cost, micro.weights, micro.mask) / n
        loss.backward()  # type: ignore[no-untyped-call]
        parts = {name: reduced(column, micro) / n for name, column in terms.metrics.items()}
        parts["loss"] = float(loss.detach())
        if out.entropy is not None:
            parts["entropy"] = float(out.entropy.detach().sum()) / float(minibatch.mask.sum())
        for name, column in corrected.items():
            parts[name] = float((column * micro.mask).sum()) / float(minibatch.mask.sum())
        figures = {name: figures.get(name, 0.0) + value for name, value in parts.items()}
    figures = processes.total(figures)
    figures["grad_norm"] = _apply(adamw, lr, schedule.max_grad_norm)
    return figures


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
