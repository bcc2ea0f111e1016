"""The optimizer `ppo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimization with a critic, as RLHF uses it.

    -min(ρ·A, clip(ρ, 1±ε)·A) + c_v·½max((V-R)², (clip(V, V_old±ε_v)-R)²) - c_e·H, averaged over tokens.

    Schulman et al. 2017 (arXiv:1707.06347) eq. 9, with A and R by GAE (arXiv:1506.02438) over per-token rewards
    r_t = -β·(log π_old - log π_ref), the score added at the last token: Ziegler et al. 2019 (arXiv:1909.08593) eq. 2.
    Advantages are whitened over the step's whole batch, not over each minibatch.
    """

    kl: Annotated[float, Ge(0)] = 0.05
    """β, the weight of the per-token KL in the reward."""
    kl_target: Annotated[float, Ge(0)] = 0.0
    """Steer β so that the KL, in nats per sequence, stays near this (Ziegler et al. sec. 2.2); 0: β is fixed."""
    kl_horizon: Annotated[float, Gt(0)] = 10_000.0
    """How many completions β takes to follow the target: larger is slower."""
    clip: Annotated[float, Gt(0)] = 0.2
    """The ratio is clipped to 1 ± clip."""
    value_clip: Annotated[float, Gt(0)] = 0.2
    """A new value may count as moved from the old one by at most this."""
    value_weight: Annotated[float, Ge(0)] = 0.1
    """Weight of the value loss."""
    entropy: Annotated[float, Ge(0)] = 0.0
    """Weight of the entropy bonus."""
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    """Discount per token."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE's λ: 0 trusts the critic, 1 the sampled return."""
    whiten_rewards: bool = False
    """Divide the token rewards by their standard deviation, keeping their mean."""
    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0, standard deviation 1."""
    epochs: Annotated[int, Ge(1)] = 4
    """Passes over each batch of completions."""
    kl_weight: ClassVar[str] = "kl"
    couples: ClassVar[str] = "row"
    online: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        columns = {"logprobs", "entropy", "values", "old_logprobs", "old_values"}
        return frozenset(columns | ({"ref_logprobs"} if self.kl else set()))

    @property
    def prepare_reads(self) -> frozenset[str]:
        return frozenset({"old_values"} | ({"old_logprobs", "ref_logprobs"} if self.kl else set()))

    def prepare(self, batch: Batch) -> Batch:
        rewards = fn.at_last_token(batch.rewards, batch.mask)
        if self.kl:
            rewards = rewards - self.kl * fn.kl_k1(fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask))
        if batch.token_rewards is not None:
            rewards = rewards + batch.token_rewards
        if self.whiten_rewards:
            rewards = fn.whiten(rewards, batch.mask, shift=False)
        advantages, returns = fn.gae(rewards, batch.old_values, batch.mask, gamma=self.gamma, lam=self.lam)
        if self.whiten_advantages:
            advantages = fn.whiten(advantages, batch.mask)
        weights = fn.token_mean(batch.mask)
        return replace(batch, advantages=advantages, returns=returns, weights=weights)

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        ratio = log_ratio.exp()
        policy = fn.clipped_surrogate(ratio, batch.advantages, low=self.clip, high=self.clip)
        value = fn.clipped_value_loss(out.values, batch.old_values, batch.returns, clip=self.value_clip)
        metrics = {
            "loss/policy": policy,
            "loss/value": value,
            "clip_fraction": ((ratio - 1).abs() > self.clip).float(),
            "approx_kl": fn.kl_k3(-log_ratio),
        }
        return Terms(policy + self.value_weight * value - self.entropy * out.entropy, metrics)

    def next(self, report: StepReport) -> PPO:
        """With a target, β grows when the KL is above it and falls when below: Ziegler et al. 2019, sec. 2.2."""
        if not self.kl_target or "kl" not in report.metrics:
            return self
        error = min(max(report.metrics["kl"] / self.kl_target - 1, -0.2), 0.2)
        return replace(self, kl=self.kl * (1 + error * report.metrics["completions"] / self.kl_horizon))
