"""Evaluation belongs to nobody: the same measure of every method, on held-out prompts.

The only place that asks a task for its gold score. Figures are means over prompts; `NAME_se` is the standard error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from alignzoo import columns
from alignzoo import functional as fn
from alignzoo.batching import answer_jointly, collate, fill, only
from alignzoo.interfaces import Optimizer, Policy, Sampler
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward, score, source_weights
from alignzoo.schedule import Evaluation
from alignzoo.types import Batch, Completion, Forward, Group, Prompt

Figures = dict[str, float]
Gold = Callable[[Prompt, Completion], float]
Rates = Callable[[Prompt, Completion], Mapping[str, float]]


@dataclass(frozen=True)
class Heldout:
    """What a policy is measured on, and by."""

    settings: Evaluation
    prompts: Sequence[Prompt]
    """Prompts to answer."""
    data: Sequence[Prompt]
    """Prompts with given completions, of the kind that the stage learns from; may be empty."""
    rewards: Sequence[WeightedReward]
    gold: Gold | None
    rates: Rates | None = None


SHOWN = 8
"""Of how many prompts the samples are shown."""


def writing(policy: Policy, heldout: Heldout, batcher: MicroBatcher) -> tuple[Figures, list[Group]]:
    """Held-out prompts answered: sampled, and greedily with the suffix `_greedy`; and the first samples, to show."""
    settings = heldout.settings
    prompts = heldout.prompts[: settings.prompts]
    if not prompts:
        return {}, []
    seeds = fn.seeds(len(prompts), settings.seed)
    sampled = score(policy.generate(prompts, settings.n, seeds=seeds), heldout.rewards, policy)
    figures = _outcomes(sampled, heldout) | _distributions(sampled, policy, batcher)
    if settings.greedy:
        greedy = score(policy.generate(prompts, 1, seeds=seeds, greedy=True), heldout.rewards, policy)
        answers = _outcomes(greedy, heldout)
        answers["entropy"] = _distributions(greedy, policy, batcher)["entropy"]
        figures |= {f"{name}_greedy": value for name, value in answers.items() if not name.endswith("_se")}
    return figures, sampled[:SHOWN]


def best_of(policy: Policy, heldout: Heldout) -> Figures:
    """The best of `n` samples by the reward: what the reward can do without training."""
    n = heldout.settings.best_of
    prompts = heldout.prompts[: heldout.settings.prompts]
    seeds = fn.seeds(len(prompts), heldout.settings.seed, "best of")
    groups = score(policy.generate(prompts, n, seeds=seeds), heldout.rewards, policy)
    return {"n": float(n)} | _outcomes([_best(group) for group in groups], heldout)


def scoring(policy: Policy, heldout: Heldout, batcher: MicroBatcher) -> Figures:
    """How often a scorer orders held-out completions as their labels do, and as the gold score does.

    `accuracy` against the labels; `gold` against the hidden order; `ceiling` is the labels' own agreement with it,
    which no scorer trained on such labels can be expected to pass.
    """
    groups = [policy.encode(p, p.completions) for p in heldout.data[: heldout.settings.prompts] if p.completions]
    if not groups:
        return {}
    scores = _scores(policy, groups, batcher)
    labels = [group.prompt.labels for group in groups]
    figures = _agreement("accuracy", scores, labels)
    if heldout.gold is not None:
        golds = [[heldout.gold(group.prompt, c) for c in group.completions] for group in groups]
        figures |= _agreement("gold", scores, golds) | _agreement("ceiling", labels, golds)
    return figures


def objective(
    policy: Policy, optimizer: Optimizer, sampler: Sampler, heldout: Heldout, batcher: MicroBatcher
) -> Figures:
    """An optimizer's own loss and metrics on held-out data, as `heldout/NAME`."""
    prompts = heldout.data[: heldout.settings.prompts]
    if not prompts or sampler.online:
        return {}
    seeds = fn.seeds(len(prompts), heldout.settings.seed)
    groups = score(sampler.sample(prompts, policy, seeds=seeds), heldout.rewards, policy)
    needs = optimizer.needs
    batch = collate(groups, policy.device, source_weights=source_weights(heldout.rewards))
    batch = optimizer.prepare(only(fill(batch, policy, needs, batcher=batcher), needs))
    if not len(batch):
        return {}
    out = Forward.of(answer_jointly(policy, batch, columns.trained(needs), batcher=batcher))
    terms = optimizer.loss(batch, out)
    told = {"loss": terms.loss, **terms.metrics}
    return {f"heldout/{name}": float(reduced(column, batch)) / len(batch) for name, column in told.items()}


def reduced(column: torch.Tensor, batch: Batch) -> torch.Tensor:
    """A metric's sum, weighted like the loss where shapes allow; a row's number counts as it is."""
    if column.ndim == 1 and batch.weights.ndim == 2:
        return column.detach().sum()
    return fn.weigh(column.detach(), batch.weights, batch.mask)


def _outcomes(groups: Sequence[Group], heldout: Heldout) -> Figures:
    """What came out, of scored groups: reward, gold, accuracy, length, finished, the task's rates as `rate/NAME`."""
    outcomes: dict[str, list[list[float]]] = {
        "length": [[float(c.n_own) for c in group.completions] for group in groups],
        "finished": [[float(c.finished) for c in group.completions] for group in groups],
    }
    if heldout.gold is not None:
        outcomes["gold"] = [[heldout.gold(group.prompt, c) for c in group.completions] for group in groups]
    values = [[s.value for s in group.scores or () if s.value is not None] for group in groups]
    if any(values):
        outcomes["reward"] = values
    for reward in heldout.rewards:
        if getattr(reward.source, "verifiable", False):
            outcomes["accuracy"] = [[s.parts.get(reward.name, 0.0) for s in group.scores or ()] for group in groups]
    if heldout.rates is not None:
        told = [[heldout.rates(group.prompt, c) for c in group.completions] for group in groups]
        for name in sorted({name for group in told for each in group for name in each}):
            outcomes[f"rate/{name}"] = [[each[name] for each in group if name in each] for group in told]
    return _means(outcomes)


def _distributions(groups: Sequence[Group], policy: Policy, batcher: MicroBatcher) -> Figures:
    """KL to the reference (k1 and k3; per sequence and per token) and entropy, from the policy's own samples."""
    batch = collate(groups, policy.device, scored=False)
    out = answer_jointly(policy, batch, frozenset({"logprobs", "entropy"}), batcher=batcher)
    with policy.answering(columns.REFERENCE):
        ref = answer_jointly(policy, batch, frozenset({"logprobs"}), batcher=batcher)["logprobs"]
    log_ratio = out["logprobs"] - ref
    figures = kl_figures(log_ratio, batch)
    figures["kl_se"] = standard_error(log_ratio.sum(1).tolist())
    figures["entropy"] = float(fn.masked_mean(out["entropy"], batch.mask))
    return figures


def kl_figures(log_ratio: torch.Tensor, batch: Batch) -> Figures:
    """`kl` is k1 per sequence; `kl/k3`, `kl/token` and `kl/k3/token` are what they say. Of tokens that the policy has
    generated: the others say nothing of it, even where they are trained on."""
    own = batch.mask & batch.own
    log_ratio = torch.where(own, log_ratio, 0.0)
    k3 = fn.kl_k3(log_ratio) * own
    return {
        "kl": float(log_ratio.sum(1).mean()),
        "kl/k3": float(k3.sum(1).mean()),
        "kl/token": float(fn.masked_mean(log_ratio, own)),
        "kl/k3/token": float(fn.masked_mean(k3, own)),
    }


def _scores(policy: Policy, groups: Sequence[Group], batcher: MicroBatcher) -> list[list[float]]:
    batch = collate(groups, policy.device, scored=False)
    values = iter(answer_jointly(policy, batch, frozenset({"scores"}), batcher=batcher)["scores"].tolist())
    return [[next(values) for _ in group.completions] for group in groups]


def _agreement(name: str, ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Figures:
    """The share of a group's pairs, of those that `theirs` orders, that `ours` orders alike; a tie of ours is half."""
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        pairs = [(i, j) for i in range(len(b)) for j in range(len(b)) if b[i] > b[j]]
        if pairs:
            better, worse = torch.tensor([[a[i] for i, _ in pairs], [a[j] for _, j in pairs]], dtype=torch.float64)
            shares.append(fn.preferred(better - worse, better.abs() + worse.abs()).tolist())
    return _means({name: shares}) if shares else {}


def _means(columns: Mapping[str, Iterable[Sequence[float]]]) -> Figures:
    """Mean and standard error over prompts of each prompt's own mean."""
    figures: Figures = {}
    for name, by_prompt in columns.items():
        means = [statistics.fmean(values) for values in by_prompt if values]
        if means:
            figures |= {name: statistics.fmean(means), f"{name}_se": standard_error(means)}
    return figures


def standard_error(values: Sequence[float]) -> float:
    """sd/√n; 0 for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _best(group: Group) -> Group:
    values = [-math.inf if s.value is None else s.value for s in group.scores or ()]
    best = values.index(max(values))
    return replace(group, completions=group.completions[best : best + 1], scores=(group.scores or ())[best : best + 1])
