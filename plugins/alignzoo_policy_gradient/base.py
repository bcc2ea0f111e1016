"""What families of policy gradients have in common: settings, columns, and where the KL to the reference stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.types import BoolNT, FloatN, FloatNT
from alignzoo_policy_gradient.arithmetic import Level, importance_ratio, outside, token_advantages


@dataclass(frozen=True)
class PolicyGradient:
    """A policy gradient: it learns from what the policy generates, and its loss reads single rows."""

    epochs: Annotated[int, Ge(1)] = 1
    """Passes over each batch of completions."""
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True


@dataclass(frozen=True)
class PenalizedReward(PolicyGradient):
    """The KL to the reference is a part of the reward: R = r - β·Σ_t (log π_old - log π_ref)."""

    kl: Annotated[float, Ge(0)] = 0.05
    """β, the weight of the KL to the reference in the reward, in nats per completion."""
    kl_weight: ClassVar[str] = "kl"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (1e-3, 0.5)}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"} | ({"ref_logprobs"} if self.kl else set()))

    @property
    def prepare_reads(self) -> frozenset[str]:
        return frozenset({"old_logprobs", "ref_logprobs"} if self.kl else ())

    def penalty(self, batch: Batch) -> FloatNT:
        """β·k1 of each token; 0 without a KL."""
        if not self.kl:
            return batch.mask.float() * 0
        return self.kl * fn.kl_k1(fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask))


@dataclass(frozen=True)
class GroupRelative(PolicyGradient):
    """A group is its own baseline, and the KL to the reference a term of the loss.

    A method says its `credit`, the advantages; its `weigh`, the reduction; and its `surrogate`, what a token costs.
    """

    kl: Annotated[float, Ge(0)] = 0.0
    """β, the weight of the KL to the reference in the loss, in nats per token."""
    prepare_reads: ClassVar[frozenset[str]] = frozenset()
    kl_weight: ClassVar[str] = "kl"
    completions: ClassVar[int] = 2

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"} | ({"ref_logprobs"} if self.kl else set()))

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=self.credit(batch), weights=self.weigh(batch.mask))

    def credit(self, batch: Batch) -> FloatN | FloatNT:
        """A = (r - group mean) / (group sd + 1e-4)."""
        return fn.group_advantages(batch)

    def weigh(self, mask: BoolNT) -> FloatNT:
        """The mean over all tokens."""
        return fn.token_mean(mask)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        """What each token or row costs, without the KL to the reference."""
        raise NotImplementedError

    def penalty(self, batch: Batch, out: Forward) -> FloatNT:
        """The estimate of the KL to the reference, of each token: k3."""
        return fn.kl_k3(fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = self.surrogate(batch, out)
        if not self.kl:
            return terms
        kl = self.penalty(batch, out)
        if terms.loss.ndim == 1:
            kl = (kl * fn.sequence_mean(batch.mask)).sum(1)
        return Terms(terms.loss + self.kl * kl, {**terms.metrics, "loss/kl": kl})


@dataclass(frozen=True)
class ClippedGroup(GroupRelative):
    """The clipped surrogate with a group's advantages: -min(ρ·A, clip(ρ, 1-ε, 1+ε')·A)."""

    clip: Annotated[float, Gt(0)] = 0.2
    """ε: the ratio is clipped below at 1 - clip, and above at 1 + clip unless `clip_high` says otherwise."""
    clip_high: Annotated[float, Ge(0)] = 0.0
    """ε', the upper clip by itself (clip-higher, arXiv:2503.14476); 0: the same as `clip`."""
    level: Level = "token"
    """The ratio of each token, or of the sequence: the geometric mean of its tokens' ratios (arXiv:2507.18071)."""
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"clip": (0.05, 0.5)}

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        ratio, high = importance_ratio(batch, out, self.level), self.clip_high or self.clip
        cost = fn.clipped_surrogate(ratio, token_advantages(batch), low=self.clip, high=high)
        return Terms(cost, {"clip_fraction": outside(ratio, self.clip, high)})


@dataclass(frozen=True)
class ScoreFunction(GroupRelative):
    """The score function with a group's advantages, -A·log π(y|x): one update per batch, and so no ratio."""

    @property
    def needs(self) -> frozenset[str]:
        return super().needs - {"old_logprobs"}

    def weigh(self, mask: BoolNT) -> FloatNT:
        """The mean over completions of the sum over tokens: the completion is one action."""
        return fn.sequence_sum(mask)

    def surrogate(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs * token_advantages(batch))


@dataclass(frozen=True)
class ActorCritic(PolicyGradient):
    """A critic is the baseline of each token, and the KL to the reference a part of each token's reward."""

    kl: Annotated[float, Ge(0)] = 0.05
    """β, the weight of the per-token KL in the reward."""
    value_weight: Annotated[float, Ge(0)] = 0.1
    """Weight of the value loss."""
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """Discount per token."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE's λ: 0 trusts the critic, 1 the sampled return."""
    kl_weight: ClassVar[str] = "kl"
    search: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (1e-3, 0.5), "value_weight": (0.01, 1.0)}

    @property
    def needs(self) -> frozenset[str]:
        columns = {"logprobs", "values", "old_logprobs", "old_values"}
        return frozenset(columns | ({"ref_logprobs"} if self.kl else set()))

    @property
    def prepare_reads(self) -> frozenset[str]:
        return frozenset({"old_values"} | ({"old_logprobs", "ref_logprobs"} if self.kl else set()))

    def rewarded(self, batch: Batch) -> FloatNT:
        """Each token's reward: -β·(log π_old - log π_ref), its dense reward, and at the last token the score."""
        rewards = fn.at_last_token(batch.rewards, batch.mask)
        if self.kl:
            rewards = rewards - self.kl * fn.kl_k1(fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask))
        return rewards if batch.token_rewards is None else rewards + batch.token_rewards

    def estimates(self, rewards: FloatNT, batch: Batch) -> tuple[FloatNT, FloatNT]:
        """Advantages and returns by generalised advantage estimation."""
        return fn.gae(rewards, batch.old_values, batch.mask, gamma=self.gamma, lam=self.lam)

    def prepare(self, batch: Batch) -> Batch:
        advantages, returns = self.estimates(self.rewarded(batch), batch)
        return replace(batch, advantages=advantages, returns=returns, weights=fn.token_mean(batch.mask))
