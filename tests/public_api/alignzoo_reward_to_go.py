"""Rewards for single tokens, and a method that credits each token with what comes after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le

import alignzoo
from alignzoo import Batch, Forward, Group, Policy, Score, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class Placed:
    """1 for each token that stands where the right answer has it, 0 for the others; the whole answer: 1 if right."""

    answer: str = "answer"
    """The column with the right answer; its tokens are words."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(self._score(group, each.tokens, policy) for each in group.completions) for group in groups]

    def _score(self, group: Group, tokens: Sequence[int], policy: Policy) -> Score:
        right = str(group.prompt.info[self.answer]).split()
        said = [piece.strip() for piece in policy.info().token_strings(tokens)]
        places = tuple(float(place < len(right) and word == right[place]) for place, word in enumerate(said))
        whole = float(len(said) == len(right) + 1 and sum(places) == len(right))  # and the end
        return Score(whole, places)


@dataclass(frozen=True)
class RewardToGo:
    """-min(ρ_t·A_t, clip(ρ_t, 1±ε)·A_t) per token, A_t = G_t - mean of the group's G_t at this place,
    G_t = Σ_{s≥t} γ^(s-t)·r_s, the score added at the last token: Sutton and Barto 2018, sec. 13.3, with a baseline that
    depends on the place.
    """

    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """γ, the discount per token."""
    clip: Annotated[float, Gt(0)] = 0.2
    """ε: the ratio is clipped to 1 ± clip."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of groups."""
    online: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})
    couples: ClassVar[str] = "row"

    def prepare(self, batch: Batch) -> Batch:
        rewards = fn.at_last_token(batch.rewards, batch.mask)
        if batch.token_rewards is not None:
            rewards = rewards + batch.token_rewards * batch.mask
        nothing = torch.zeros_like(rewards)
        to_go, _ = fn.gae(rewards, nothing, batch.mask, gamma=self.gamma, lam=1.0)
        same = (batch.group[:, None] == batch.group).float()  # (N, N)
        mean = (same @ to_go) / (same @ batch.mask.float()).clamp(min=1)  # (N, T): a group's rows share their prompt
        return replace(batch, advantages=(to_go - mean) * batch.mask, weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip))


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.reward("placed", Placed)
    zoo.optimizer("reward-to-go", RewardToGo)
