"""The metrics that every method shares, computed here, once, the same for all."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from alignzoo.evaluate import Figures, kl_figures
from alignzoo.interfaces import Policy
from alignzoo.types import Batch, FloatN, Group


def shared(groups: Sequence[Group], batch: Batch, prepared: Batch, epochs: int) -> Figures:
    """A step's figures from its groups, its batch, and what the optimizer made of the batch."""
    completions = [completion for group in groups for completion in group.completions]
    figures = {"completions": float(len(completions)), "rows": float(len(prepared))}
    if len(batch):
        rewards = batch.rewards.double()
        figures |= {"reward/mean": float(rewards.mean()), "reward/std": float(rewards.std(correction=0))}
        figures |= {f"reward/{name}": float(values.mean()) for name, values in batch.parts.items()}
        figures |= _correlated("length/reward", batch.mask.sum(1).double(), rewards)
    abstained = len(completions) - len(batch)
    if abstained:
        figures["reward/abstained"] = float(abstained)
    if len(batch) and batch.old_logprobs is not None and batch.ref_logprobs is not None:
        figures |= kl_figures(batch.old_logprobs - batch.ref_logprobs, batch)
    if completions:
        figures["length"] = sum(len(c.tokens) for c in completions) / len(completions)
        figures["finished"] = sum(c.finished for c in completions) / len(completions)
    figures["tokens/generated"] = float(sum(len(c.tokens) for c in completions if c.logprobs is not None))
    figures["tokens/trained"] = float(prepared.attend.sum()) * epochs
    return figures


def _correlated(name: str, xs: FloatN, ys: FloatN) -> Figures:
    """Pearson's correlation over the completions; nothing where either of the two is the same for all."""
    xs, ys = xs - xs.mean(), ys - ys.mean()
    scale = float(xs.norm() * ys.norm())
    return {name: float(xs @ ys) / scale} if scale > 0 else {}


def memory(policy: Policy) -> Figures:
    """Peak memory in bytes: of the GPU, or of this process."""
    if policy.device.type == "cuda":
        return {"memory": float(torch.cuda.max_memory_allocated(policy.device))}
    return {"memory": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent[phase] = self.spent.get(phase, 0.0) + time.perf_counter() - start

    def seconds(self) -> Figures:
        return {f"seconds/{phase}": value for phase, value in self.spent.items()}


def means(updates: Iterable[Figures]) -> Figures:
    """Each figure's mean over the updates; of those figures that all of them have."""
    by_update = list(updates)
    names = [name for name in by_update[0] if all(name in each for each in by_update)] if by_update else []
    return {name: sum(each[name] for each in by_update) / len(by_update) for name in names}
