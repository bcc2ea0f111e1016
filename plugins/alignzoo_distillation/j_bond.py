"""Optimizer `j-bond`: best-of-n distillation with a moving anchor, and the sampler `beside-anchor` that it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le

from alignzoo import Batch, Forward, Group, PluginError, Policy, Prompt, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import CheckContext

COLUMN = "by_anchor"
"""1 for an answer of the anchor, 0 for the policy's own."""


@dataclass(frozen=True)
class BesideAnchor:
    """Answers of the policy to each prompt, and some of its reference, the anchor, marked by the column `by_anchor`."""

    n: Annotated[int, Ge(1)] = 1
    """Answers of the policy's own."""
    anchors: Annotated[int, Ge(1)] = 2
    """Answers of the anchor."""
    online: ClassVar[bool] = True
    brings: ClassVar[frozenset[str]] = frozenset({COLUMN})

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        own = policy.generate(prompts, self.n, seeds=[fn.derive(seed, "policy") for seed in seeds])
        with policy.answering("ref"):
            others = policy.generate(prompts, self.anchors, seeds=[fn.derive(seed, "anchor") for seed in seeds])
        return [_beside(one, other) for one, other in zip(own, others, strict=True)]


def _beside(own: Group, anchor: Group) -> Group:
    """What the anchor has generated carries no log-probabilities: they would be taken for the policy's own."""
    given = tuple(replace(each, logprobs=None) for each in anchor.completions)
    flags = (0.0,) * len(own.completions) + (1.0,) * len(given)
    return replace(own, completions=own.completions + given, extra={COLUMN: flags})


@dataclass(frozen=True)
class JBOND:
    """Best-of-n distillation by steps: the best of two of an anchor is distilled again and again, while it follows.

    (1-β)·(-log π(best of the anchor's two)) - β·A·log π(y), A = R - mean R, R = r' - (1+γ)·log π(y)/π_anchor(y),
    r' = -log 16 where the policy's y is worse than both of the anchor's, and 0 elsewhere.

    Sessa et al. 2024 (arXiv:2407.14622) sec. 5 and algorithm 2: the Jeffreys divergence to the best of two, held to the
    anchor by γ. The anchor is the reference, which moves by η towards the policy after each step, so that n doubles
    ever again. The mean is over the batch's own answers, as their B. Two of
    the same worth have no best, and neither is copied. A group without marked answers is its own anchor.
    """

    backward: Annotated[float, Ge(0), Le(1)] = 0.5
    """β: 0 imitates the best of two alone, 1 seeks its mode alone."""
    gamma: Annotated[float, Ge(0)] = 1.0
    """γ, how much more the KL to the anchor counts."""
    follows: Annotated[float, Ge(0), Le(1)] = 0.02
    """η, how much of the policy the anchor takes after each step."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch."""
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
    kl_weight: ClassVar[str] = "gamma"
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"gamma": (0.1, 3.0)}
    laws: ClassVar[Mapping[str, str]] = {
        "baseline": "its baseline is the whole batch's mean (arXiv:2407.14622)",
        "discount": "its γ weighs the KL to the anchor",
    }

    def check(self, context: CheckContext) -> None:
        """Raise where nobody brings the anchor's answers."""
        if not context.brings(COLUMN):
            raise PluginError(
                "j-bond distils the best of two answers of its anchor, and the stage's sampler brings none: set "
                "sampler=beside-anchor, or take a method whose anchor is the policy itself"
            )

    def follow(self, step: int) -> Mapping[str, float]:
        return {"ref": self.follows}

    def prepare(self, batch: Batch) -> Batch:
        marked = batch.extra.get(COLUMN, torch.zeros_like(batch.rewards)) == 1
        alone = fn.group_mean(marked.float(), batch.group) == 0
        anchor = marked | alone
        best, worst = (_of_anchor(batch, anchor, largest) for largest in (True, False))
        moved = fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask).sum(1)
        worse = torch.where(batch.rewards < worst, -math.log(16), 0.0)
        rewards = worse - (1 + self.gamma) * moved
        own = ~marked
        advantages = torch.where(own, rewards - rewards[own].mean() if own.any() else rewards, 0.0)
        copied = (anchor & (batch.rewards == best) & (best > worst)).float()
        copied = copied / (fn.group_mean(copied, batch.group) * fn.group_size(batch.group)).clamp(min=1)
        scale = len(batch) / max(int(own.sum()), 1), len(batch) / max(float(copied.sum()), 1.0)
        extra = {**batch.extra, "own": own * scale[0], "copied": copied * scale[1]}
        return replace(batch, advantages=advantages, weights=fn.sequence_sum(batch.mask), extra=extra)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        covering = -out.logprobs * fn.token_column(batch.extra["copied"], batch.mask)
        seeking = -out.logprobs * fn.token_column(batch.advantages * batch.extra["own"], batch.mask)
        return Terms((1 - self.backward) * covering + self.backward * seeking, {"loss/forward": covering})


def _of_anchor(batch: Batch, anchor: torch.Tensor, largest: bool) -> torch.Tensor:
    """The best or the worst reward of the anchor's answers in each row's group, (N,); infinite where it has none."""
    index, side = fn.group_index(batch.group), -torch.inf if largest else torch.inf
    found = torch.where(anchor, batch.rewards, side)
    table = torch.full_like(found, side).scatter_reduce(0, index, found, "amax" if largest else "amin")
    return table[index]
