"""An optimizer's objective on columns that are given by hand: its value and its gradient, as the runner reduces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alignzoo import Batch, Forward
from alignzoo import functional as fn
from alignzoo.testing.world import toy_batch


@dataclass(frozen=True)
class Objective:
    """Σ weights·terms / N."""

    loss: float
    gradient: dict[str, Tensor]
    """By the column of the policy, on the prepared rows."""
    prepared: Batch
    metrics: dict[str, Tensor]


def answers(rewards: Sequence[float], group: Sequence[int] = (), **extra: Sequence[float]) -> Batch:
    """Completions of one token, so that a row's log-probability is its token's; of one group where it is not said."""
    batch = toy_batch([1] * len(rewards), group=list(group) or [0] * len(rewards), rewards=rewards)
    return replace(batch, extra={name: torch.tensor(values) for name, values in extra.items()})


def objective(optimizer: Any, batch: Batch, **columns: Sequence[float]) -> Objective:
    """`columns` by name, a number per row: `logprobs`, `ref_logprobs`, `scores`, `values`, ... In float64."""
    laid = {name: _column(batch, name, values) for name, values in columns.items()}
    filled = {name: column for name, column in laid.items() if "_" in name}
    rows = torch.arange(len(batch))
    batch = replace(batch, rewards=batch.rewards.double(), extra={**batch.extra, "place": rows})
    prepared = optimizer.prepare(batch.answered(filled))
    place = prepared.extra["place"]
    said = {name: c[place].clone().requires_grad_(True) for name, c in laid.items() if "_" not in name}
    terms = optimizer.loss(prepared, Forward(**said))
    weights = prepared.weights.double()
    cost = terms.loss * (weights[:, None] * prepared.mask if terms.loss.ndim > weights.ndim else weights)
    loss = cost.sum() / len(prepared)
    loss.backward()
    gradient = {name: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for name, leaf in said.items()}
    by_row = {name: (g.sum(1) if g.ndim == 2 else g) for name, g in gradient.items()}
    whole = {n: torch.zeros(len(batch), dtype=torch.float64).index_add(0, place, g) for n, g in by_row.items()}
    return Objective(loss.item(), whole, prepared, dict(terms.metrics))


def _column(batch: Batch, name: str, values: Sequence[float]) -> Tensor:
    column = torch.tensor(values, dtype=torch.float64)
    return column if name == "scores" else fn.token_column(column, batch.mask)


def logistic(x: float) -> float:
    """-log σ(x)."""
    return float(-torch.nn.functional.logsigmoid(torch.tensor(x, dtype=torch.float64)))
