"""The evaluation of a stage, before, during and after its training: of what it generates, or of what it scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from alignzoo import columns, processes
from alignzoo import functional as fn
from alignzoo.allocator import give_back
from alignzoo.batching import answer_jointly, collate, fill, only
from alignzoo.decoding import AS_SET
from alignzoo.evaluation.answers import (
    Answer,
    Decoded,
    Figures,
    Gold,
    Measures,
    Rates,
    Seen,
    answered,
    distributions,
    figures,
    mean_of,
    outcomes,
    with_distributions,
)
from alignzoo.gathering import apart
from alignzoo.interfaces import Optimizer, Policy, Sampler
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward, score, source_weights
from alignzoo.schedule import Evaluation
from alignzoo.types import Batch, Forward, Group, Prompt


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

    @property
    def measures(self) -> Measures:
        """What answers are measured by."""
        return Measures(self.rewards, self.gold, self.rates)


SHOWN = 8
"""The number of prompts whose samples are shown."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation has come to."""

    figures: Figures
    answers: Sequence[Answer] = ()
    """What was generated, one by one."""
    shown: Sequence[Group] = ()
    """The first sampled groups."""


def unseen(completions: int) -> None:
    """Nobody is told."""


def work(heldout: Heldout, *, writes: bool, reads: bool) -> int:
    """How often an evaluation says that a completion has been generated or read."""
    settings = heldout.settings
    answers = len(heldout.prompts[: settings.most]) * (settings.n + settings.greedy)
    given = sum(len(prompt.completions) for prompt in heldout.data[: settings.most])
    return 2 * answers * writes + given * reads


def writing(policy: Policy, heldout: Heldout, batcher: MicroBatcher, seen: Seen = unseen) -> Evaluated:
    """Held-out prompts answered: sampled, and greedily with the suffix `_greedy`."""
    settings = heldout.settings
    prompts = heldout.prompts[: settings.most]
    if not prompts:
        return Evaluated({})
    give_back()  # what steps have left free: keys and values of so many answers do not fit in there
    seeds = fn.seeds(len(prompts), settings.seed)
    decoding = settings.decoding or AS_SET
    groups, answers = _answered(policy, heldout, Decoded(settings.n, seeds, decoding), batcher, seen)
    if not settings.greedy:
        return Evaluated(figures(answers), answers, groups[:SHOWN])
    _, greedy = _answered(policy, heldout, Decoded(1, seeds, replace(decoding, greedy=True)), batcher, seen)
    entropy = {"entropy_greedy": distributions(greedy)["entropy"]}
    return Evaluated(figures([*answers, *greedy]) | entropy, [*answers, *greedy], groups[:SHOWN])


def _answered(
    policy: Policy, heldout: Heldout, how: Decoded, batcher: MicroBatcher, seen: Seen
) -> tuple[list[Group], list[Answer]]:
    """With the KL to the policy's own reference."""

    def start(batch: Batch) -> torch.Tensor:
        with policy.answering(columns.REFERENCE):
            return answer_jointly(policy, batch, frozenset({"logprobs"}), batcher=batcher)["logprobs"]

    prompts = heldout.prompts[: heldout.settings.most]
    groups, answers = answered(policy, prompts, how, heldout.measures, seen=seen)
    return groups, with_distributions(policy, groups, answers, start, batcher, seen=seen)


def best_of(policy: Policy, heldout: Heldout, seen: Seen = unseen) -> Evaluated:
    """The best of `n` samples by the reward: what the reward can do without training."""
    prompts = heldout.prompts[: heldout.settings.most]
    seeds = fn.seeds(len(prompts), heldout.settings.seed, "best of")
    how = Decoded(heldout.settings.best_of, seeds, best=True)
    _, answers = answered(policy, prompts, how, heldout.measures, seen=seen)
    return Evaluated({"n": float(how.n)} | outcomes(answers), answers)


def scoring(policy: Policy, heldout: Heldout, batcher: MicroBatcher, seen: Seen = unseen) -> Evaluated:
    """How often a scorer orders held-out completions as their labels do, and as the gold score does.

    `accuracy` against the labels; `gold` against the hidden order; `ceiling` is the labels' own agreement with it,
    which no scorer trained on such labels can be expected to pass.
    """
    groups = [policy.encode(p, p.completions) for p in heldout.data[: heldout.settings.most] if p.completions]
    if not groups:
        return Evaluated({})
    scores = _scores(policy, groups, batcher, seen)
    labels = [group.prompt.labels for group in groups]
    found = _agreement("accuracy", scores, labels)
    if heldout.gold is not None:
        mine = [[heldout.gold(group.prompt, c) for c in group.completions] for group in processes.dealt(groups)]
        golds = processes.gather(mine)
        found |= _agreement("gold", scores, golds) | _agreement("ceiling", labels, golds)
    return Evaluated(found)


def objective(
    policy: Policy,
    optimizer: Optimizer,
    sampler: Sampler,
    heldout: Heldout,
    batcher: MicroBatcher,
    seen: Seen = unseen,
) -> Figures:
    """An optimizer's own loss and metrics on held-out data, as `heldout/NAME`, each with its standard error over
    groups where there are several; their number as `heldout/n`, and the perplexity of a negative log-likelihood."""
    prompts = heldout.data[: heldout.settings.most]
    if not prompts or sampler.online:
        return {}
    seeds = processes.dealt(fn.seeds(len(prompts), heldout.settings.seed))
    with apart(policy, sampler, heldout.rewards, generates=False):
        mine = sampler.sample(processes.dealt(prompts), policy, seeds=seeds)
        groups = processes.gather(score(mine, heldout.rewards, policy))
    needs = optimizer.needs
    batch = collate(groups, policy.device, source_weights=source_weights(heldout.rewards))
    batch = optimizer.prepare(only(fill(batch, policy, needs, batcher=batcher), needs))
    if not len(batch):
        return {}
    out = Forward.of(answer_jointly(policy, batch, columns.trained(needs), batcher=batcher, seen=seen))
    terms = optimizer.loss(batch, out)
    found: Figures = {"heldout/n": float(len(batch.group_sizes()))}
    for name, column in {"loss": terms.loss, **terms.metrics}.items():
        mean = float(reduced(column, batch)) / len(batch)
        found[f"heldout/{name}"] = mean
        if len(batch.group_sizes()) > 1:
            found[f"heldout/{name}_se"] = _error(column, batch, mean)
    nll = found.get("heldout/nll")
    return found | ({} if nll is None else {"heldout/perplexity": math.exp(min(nll, 700.0))})


def _error(column: torch.Tensor, batch: Batch, mean: float) -> float:
    """The standard error of `reduced` over the rows, groups drawn whole: of the ratio Σ weights·terms / Σ weights
    (Cochran 1977, Sampling Techniques, sec. 2.11), so that long answers that weigh more count as what they are."""
    off = column.detach().double() - mean
    if column.ndim == 2:
        weights = batch.weights if batch.weights.ndim == 2 else batch.weights[:, None] * batch.mask
        rows = torch.where(batch.mask, off * weights, 0.0).sum(1)
    else:
        rows = off * (batch.weights if batch.weights.ndim == 1 else 1.0)
    groups = torch.stack([part.sum() for part in torch.split(rows, batch.group_sizes().tolist())])
    n = len(groups)
    return float(groups.square().sum().sqrt()) / len(batch) * math.sqrt(n / (n - 1))


def reduced(column: torch.Tensor, batch: Batch) -> torch.Tensor:
    """A metric's sum, weighted like the loss where shapes allow; a row's number counts as it is."""
    if column.ndim == 1 and batch.weights.ndim == 2:
        return column.detach().sum()
    return fn.weigh(column.detach(), batch.weights, batch.mask)


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


def _scores(policy: Policy, groups: Sequence[Group], batcher: MicroBatcher, seen: Seen) -> list[list[float]]:
    batch = collate(groups, policy.device, scored=False)
    values = iter(answer_jointly(policy, batch, frozenset({"scores"}), batcher=batcher, seen=seen)["scores"].tolist())
    return [[next(values) for _ in group.completions] for group in groups]


def _agreement(name: str, ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Figures:
    """The share of a group's pairs, of those that `theirs` orders, that `ours` orders alike; a tie of ours is half."""
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        pairs = [(i, j) for i in range(len(b)) for j in range(len(b)) if b[i] > b[j]]
        if pairs:
            better, worse = torch.tensor([[a[i] for i, _ in pairs], [a[j] for _, j in pairs]], dtype=torch.float64)
            shares.append(statistics.fmean(fn.preferred(better - worse, better.abs() + worse.abs()).tolist()))
    return mean_of(name, dict(enumerate(shares)))
