"""The optimizer `dcpo` on a page, and the sampler `remembering` that gives it each prompt's former rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, Group, Policy, Prompt, StepReport, Terms
from alignzoo import functional as fn
from alignzoo.types import BoolNT, FloatN, FloatNT
from alignzoo_policy_gradient.arithmetic import importance_ratio, token_advantages
from alignzoo_policy_gradient.base import GroupRelative

COLUMNS = ("former_steps", "former_answers", "former_sum", "former_squares")
"""What is known of a row's prompt: in how many steps it was, how many answers it had there, the sum of their rewards
and of their squares."""


@dataclass(frozen=True)
class Remembering:
    """The policy's n answers to each prompt, with what the prompt's answers were worth in the steps before."""

    n: Annotated[int, Ge(2)] = 8
    """Answers per prompt."""
    memory: tuple[tuple[int, float, float, float, float], ...] = ()
    """For each prompt that has been seen its place among the stage's prompts, and these columns: each step's successor
    carries them on."""
    online: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Prompt], policy: Policy, *, seeds: Sequence[int]) -> list[Group]:
        known = {place: figures for place, *figures in self.memory}
        groups = policy.generate(prompts, self.n, seeds=seeds)
        return [self._with_memory(each, known.get(each.prompt.index, [0.0] * 4)) for each in groups]

    def _with_memory(self, group: Group, known: Sequence[float]) -> Group:
        columns = {name: (value,) * self.n for name, value in zip(COLUMNS, known, strict=True)}
        return replace(group, extra={**group.extra, **columns})

    def next(self, report: StepReport) -> Remembering:
        """With this step's rewards in the memory."""
        memory = {place: tuple(figures) for place, *figures in self.memory}
        for group in report.groups:
            values = [score.value for score in group.scores or () if score.value is not None]
            if group.prompt.index is not None and values:
                more = (1.0, float(len(values)), sum(values), sum(value * value for value in values))
                before = memory.get(group.prompt.index, (0.0,) * 4)
                memory[group.prompt.index] = tuple(a + b for a, b in zip(before, more, strict=True))
        return replace(self, memory=tuple((place, *figures) for place, figures in memory.items()))


@dataclass(frozen=True)
class DCPO(GroupRelative):
    """Dynamic clipping policy optimization: what is unlikely may change more, and former rewards count as well.

    -min(ρ·A, clip(ρ, ½ + ½·√max(1 - 4ε/q, 0), ½ + ½·√(1 + 4ε'/q))·A), q = π_old of the token; ρ is at most 10.
    In a prompt's i-th step A is the smaller in size of ((i-1)·A_new + A_total)/i and (A_new + (i-1)·A_total)/i, A_new
    the z-score of the reward in its group, A_total in all the prompt's groups so far. Sums over tokens.

    Yang et al. 2025 (arXiv:2509.02333) and the authors' account of it, which was read: |(p/q - 1)·p/q| ≤ ε/q, a tied
    group still learns from former ones, and no length divides. The sampler `remembering` brings the former rewards;
    without it every step is a prompt's first.
    """

    clip: Annotated[float, Gt(0)] = 0.16
    """ε, the lower clip's width."""
    clip_high: Annotated[float, Gt(0)] = 0.2
    """ε', the upper clip's width."""
    largest_ratio: Annotated[float, Gt(1)] = 10.0
    """No upper clip is above this."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (0.05, 0.3), "clip_high": (0.05, 0.5)}
    laws: ClassVar[Mapping[str, str]] = {"trust_region": "its bounds differ from token to token (arXiv:2509.02333)"}

    def credit(self, batch: Batch) -> FloatN:
        steps, count, total, squares = (batch.extra.get(name, torch.zeros_like(batch.rewards)) for name in COLUMNS)
        size, r = fn.group_size(batch.group), batch.rewards
        count = count + size
        mean = (total + fn.group_mean(r, batch.group) * size) / count
        squares = squares + fn.group_mean(r**2, batch.group) * size
        spread = ((squares - count * mean**2).clamp(min=0) / (count - 1).clamp(min=1)).sqrt()
        new, whole, share = fn.group_advantages(batch), (r - mean) / (spread + 1e-4), 1 / (steps + 1)
        smooth = [(1 - share) * new + share * whole, share * new + (1 - share) * whole]
        return torch.where(smooth[0].abs() < smooth[1].abs(), smooth[0], smooth[1])

    def weigh(self, mask: BoolNT) -> FloatNT:
        return fn.sequence_sum(mask)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        ratio, a = importance_ratio(batch, out), token_advantages(batch)
        rarity = (-torch.where(batch.mask, batch.old_logprobs, 0.0)).clamp(max=80).exp()  # 1/q
        low = 0.5 + 0.5 * (1 - 4 * self.clip * rarity).clamp(min=0).sqrt()
        high = (0.5 + 0.5 * (1 + 4 * self.clip_high * rarity).sqrt()).clamp(max=self.largest_ratio)
        cost = -torch.minimum(ratio * a, torch.clamp(ratio, low, high) * a)
        return Terms(cost, {"clip_fraction": ((ratio < low) | (ratio > high)).float()})
