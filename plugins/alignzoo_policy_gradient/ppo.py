"""The optimizer `ppo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Gt

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.arithmetic import outside
from alignzoo_policy_gradient.base import ActorCritic


@dataclass(frozen=True)
class PPO(ActorCritic):
    """Proximal policy optimization with a critic, as RLHF uses it.

    -min(ρ·A, clip(ρ, 1±ε)·A) + c_v·½max((V-R)², (clip(V, V_old±ε_v)-R)²) - c_e·H, averaged over tokens.

    Schulman et al. 2017 (arXiv:1707.06347) eq. 9, with A and R by GAE (arXiv:1506.02438) over per-token rewards
    r_t = -β·(log π_old - log π_ref), the score added at the last token: Ziegler et al. 2019 (arXiv:1909.08593) eq. 2.
    Advantages are whitened over the step's whole batch, not over each minibatch.
    """

    kl_target: Annotated[float, Ge(0)] = 0.0
    """Steer β so that the KL, in nats per sequence, stays near this (Ziegler et al. sec. 2.2); 0: β is fixed."""
    kl_horizon: Annotated[float, Gt(0)] = 10_000.0
    """How many completions β takes to follow the target: larger is slower."""
    clip: Annotated[float, Gt(0)] = 0.2
    """ε: the ratio is clipped below at 1 - clip, and above at 1 + clip unless `clip_high` says otherwise."""
    clip_high: Annotated[float, Ge(0)] = 0.0
    """The upper clip by itself (clip-higher, arXiv:2503.14476); 0: the same as `clip`."""
    value_clip: Annotated[float, Gt(0)] = 0.2
    """A new value may count as moved from the old one by at most this."""
    entropy: Annotated[float, Ge(0)] = 0.0
    """Weight of the entropy bonus."""
    whiten_rewards: bool = False
    """Divide the token rewards by their standard deviation, keeping their mean."""
    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0, standard deviation 1."""
    epochs: Annotated[int, Ge(1)] = 4
    """Passes over each batch of completions."""

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"entropy"}

    def prepare(self, batch: Batch) -> Batch:
        rewards = self.rewarded(batch)
        if self.whiten_rewards:
            rewards = fn.whiten(rewards, batch.mask, shift=False)
        advantages, returns = self.estimates(rewards, batch)
        if self.whiten_advantages:
            advantages = fn.whiten(advantages, batch.mask)
        weights = fn.token_mean(batch.mask)
        return replace(batch, advantages=advantages, returns=returns, weights=weights)

    def surrogate(self, ratio: FloatNT, advantages: FloatNT) -> FloatNT:
        """What the policy's term costs each token."""
        return fn.clipped_surrogate(ratio, advantages, low=self.clip, high=self.clip_high or self.clip)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        ratio, high = log_ratio.exp(), self.clip_high or self.clip
        policy = self.surrogate(ratio, batch.advantages)
        value = fn.clipped_value_loss(out.values, batch.old_values, batch.returns, clip=self.value_clip)
        metrics = {
            "loss/policy": policy,
            "loss/value": value,
            "clip_fraction": outside(ratio, self.clip, high),
            "approx_kl": fn.kl_k3(-log_ratio),
        }
        return Terms(policy + self.value_weight * value - self.entropy * out.entropy, metrics)

    def next(self, report: StepReport) -> PPO:
        """With a target, β grows when the KL is above it and falls when below: Ziegler et al. 2019, sec. 2.2."""
        if not self.kl_target or "kl" not in report.metrics:
            return self
        error = min(max(report.metrics["kl"] / self.kl_target - 1, -0.2), 0.2)
        return replace(self, kl=self.kl * (1 + error * report.metrics["completions"] / self.kl_horizon))
