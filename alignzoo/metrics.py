"""The metrics that every method shares, computed here, once, the same for all."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from alignzoo import cost
from alignzoo import functional as fn
from alignzoo.errors import RunError
from alignzoo.evaluation.answers import Figures, standard_error
from alignzoo.evaluation.heldout import kl_figures
from alignzoo.interfaces import Policy
from alignzoo.types import Batch, FloatN, Group


def shared(
    groups: Sequence[Group],
    batch: Batch,
    prepared: Batch,
    epochs: int,
    step: int,
    *,
    ahead: bool = False,
    dropped: int | None = None,
) -> Figures:
    """The figures of a step, counted from 1: from its groups, its batch, and what the optimizer made of the batch.
    `ahead`: an earlier policy has generated it; `dropped` completions were too stale to be in the batch."""
    completions = [completion for group in groups for completion in group.completions]
    figures = {"groups": float(len(groups)), "completions": float(len(completions)), "rows": float(len(prepared))}
    scored = any(each.value is not None for group in groups for each in group.scores or ())
    if scored or not len(batch):  # who reads no rewards trains on completions that have none
        figures |= comparisons(batch)
    if len(batch) and scored:
        rewards = batch.rewards.double()
        figures |= {"reward/mean": float(rewards.mean()), "reward/std": float(rewards.std(correction=0))}
        figures |= {f"reward/{name}": _mean_given(batch, name) for name in batch.parts}
        figures |= _error(rewards, batch)
        figures |= _correlated("length/reward", batch.own.sum(1).double(), rewards)
    if len(batch):
        figures |= _staleness(batch.extra["staleness"], always=ahead)
        figures |= _lag(batch) if ahead else {}
    if dropped is not None:
        figures["staleness/dropped"] = float(dropped)
    abstained = len(completions) - len(batch) - (dropped or 0)
    if abstained:
        figures["reward/abstained"] = float(abstained)
    fresh = batch.select(batch.extra["staleness"] == 0)  # an earlier policy's samples say nothing of this one's KL
    if len(fresh) and fresh.old_logprobs is not None and fresh.ref_logprobs is not None:
        figures |= kl_figures(fresh.old_logprobs - fresh.ref_logprobs, fresh)
    elif ahead and len(batch) and batch.ref_logprobs is not None:  # of the policy that generated it
        figures |= kl_figures(batch.extra["sampled_logprobs"] - batch.ref_logprobs, batch)
    figures |= _mismatch(fresh)
    if completions:
        figures["length"] = sum(c.n_own for c in completions) / len(completions)
        figures["finished"] = sum(c.finished for c in completions) / len(completions)
    figures["tokens/generated"] = generated(groups, step)
    # A prompt that rows of a group share is read once, and counts once.
    figures["tokens/trained"] = float(cost.reading_batch(prepared).tokens * epochs)
    return figures


def _error(rewards: FloatN, batch: Batch) -> Figures:
    """`reward_se`, the standard error of the mean reward, prompts drawn whole: the completions of one prompt are more
    alike than those of two. Nothing of a single group."""
    means = [float(group.mean()) for group in torch.split(rewards, batch.group_sizes().tolist())]
    return {"reward_se": standard_error(means)} if len(means) > 1 else {}


def _mean_given(batch: Batch, name: str) -> float:
    """The mean of a reward over the rows of which it gave a number; of a component over all."""
    column = batch.parts[name]
    given = ~batch.sources[name].isnan() if name in batch.sources else None
    return float((column if given is None or not given.any() else column[given]).mean())


def comparisons(batch: Batch) -> Figures:
    """Among groups with at least two scored completions, `groups/tied` is the share whose rewards are all equal, and
    `groups/identical` the share whose rewards differ though the completions are the same, token by token. Neither kind
    prefers anything. Nothing where no group has two."""
    sizes = batch.group_sizes().tolist()
    tokens, attend, rewards = (
        torch.split(column.cpu(), sizes) for column in (batch.tokens, batch.attend, batch.rewards)
    )
    tied = identical = compared = 0
    for texts, ends, values in zip(tokens, attend, rewards, strict=True):
        if len(values) > 1:
            compared += 1
            equal = bool((values == values[0]).all())
            tied += equal
            identical += not equal and bool((texts == texts[0]).all() and (ends == ends[0]).all())
    return {"groups/tied": tied / compared, "groups/identical": identical / compared} if compared else {}


def _mismatch(fresh: Batch) -> Figures:
    """How far the engine's log-probabilities of what it sampled are from those of the policy's forward pass, which are
    the same but for rounding, wherever both are known: the mean over tokens of k3 of KL(engine || policy), and the
    largest difference."""
    sampled = fresh.extra.get("sampled_logprobs")
    own = fresh.mask & fresh.own
    if sampled is None or fresh.old_logprobs is None or not own.any():
        return {}
    off = (sampled - fresh.old_logprobs).double()[own]
    return {"mismatch/kl": float(fn.kl_k3(off).mean()), "mismatch/max": float(off.abs().max())}


def generated(groups: Sequence[Group], step: int) -> float:
    """Tokens that a policy has generated for this step, by whatever version of it; not what it was told in between."""
    completions = (completion for group in groups for completion in group.completions)
    return float(sum(c.n_own for c in completions if c.logprobs is not None and c.step == step))


def _lag(batch: Batch) -> Figures:
    """How far the policy that generated the completions, μ, is from the present one, π: the mean over tokens of k3 of
    KL(μ || π), the largest π/μ, and how many tokens are of an older policy."""
    own = batch.mask & batch.own
    sampled = batch.extra.get("sampled_logprobs")
    if sampled is None:
        raise RunError(
            "schedule.ahead trains on what an earlier policy generated, but nothing has recorded how likely that was: "
            "an engine that draws by top_k, top_p or min_p may not know. Leave these out, take policy.engine=alignzoo, "
            "or set schedule.ahead to 0"
        )
    old = batch.old_logprobs
    if old is None or not own.any():
        return {}
    off = (sampled - old).double()[own]
    stale = own & (batch.extra["staleness"] > 0)[:, None]
    kl, ratio = float(fn.kl_k3(off).mean()), float((-off).max().exp())
    return {"staleness/kl": kl, "staleness/ratio": ratio, "staleness/tokens": float(stale.sum())}


def _staleness(steps: FloatN, *, always: bool = False) -> Figures:
    """By how many steps the policy that generated the completions is older than the present one; nothing where none of
    them is of an older one, unless that is always told."""
    if not (always or steps.any()):
        return {}
    return {"staleness/mean": float(steps.mean()), "staleness/max": float(steps.max())}


def selection(chosen: Sequence[Group], brought: Sequence[Group], step: int) -> Figures:
    """What it took to find the groups to learn from; nothing where all that were brought are learnt from."""
    if len(chosen) == len(brought) and all(a is b for a, b in zip(chosen, brought, strict=True)):
        return {}
    figures = {"groups/brought": float(len(brought)), "groups/chosen": float(len(chosen))}
    values = [s.value for group in brought for s in group.scores or () if s.value is not None]
    mean = {"reward/brought": sum(values) / len(values)} if values else {}
    return figures | mean | {"tokens/generated": generated(brought, step)}


def _correlated(name: str, xs: FloatN, ys: FloatN) -> Figures:
    """Pearson's correlation over the completions; nothing where either of the two is the same for all."""
    xs, ys = xs - xs.mean(), ys - ys.mean()
    scale = float(xs.norm() * ys.norm())
    return {name: float(xs @ ys) / scale} if scale > 0 else {}


def memory(policy: Policy) -> Figures:
    """Peak memory in bytes: of the GPU since this was last asked, that is in a step and the evaluation before it, or of
    this process since its start."""
    if policy.device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated(policy.device))
        torch.cuda.reset_peak_memory_stats(policy.device)
        return {"memory": peak}
    return {"memory": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


class Clock:
    """Seconds by phase. A GPU works on when its kernels have been launched, so that a phase ends when they have."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.current_stream().synchronize()  # not the device, on which another thread may record a graph
        self.spent[phase] = self.spent.get(phase, 0.0) + time.perf_counter() - start

    def seconds(self) -> Figures:
        return {f"seconds/{phase}": value for phase, value in self.spent.items()}


def means(updates: Iterable[Figures]) -> Figures:
    """Each figure's mean over the updates; of those figures that all of them have."""
    by_update = list(updates)
    names = [name for name in by_update[0] if all(name in each for each in by_update)] if by_update else []
    return {name: sum(each[name] for each in by_update) / len(by_update) for name in names}
