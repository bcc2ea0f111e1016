"""The optimizer `vapo` on a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from alignzoo import Batch, Forward, Terms
from alignzoo import functional as fn
from alignzoo.types import FloatNT
from alignzoo_policy_gradient.vc_ppo import VCPPO


@dataclass(frozen=True)
class VAPO(VCPPO):
    """Value-based augmented PPO: VC-PPO for answers of all lengths, which also imitates what was right.

    As VC-PPO, with λ = 1 - 1/(α·|y|), clip-higher, and μ·NLL of the right answers added, a mean over their own tokens.

    Yue et al. 2025 (arXiv:2504.05118): length-adaptive GAE, the token mean and the positive-example LM loss, without a
    KL; λ, both clips and μ are the paper's. λ is made for thousands of tokens: below 1/α of them it would be negative,
    and so it has a floor, `lam`. Group sampling, many completions of few prompts, is the recipe's.
    """

    kl: Annotated[float, Ge(0)] = 0.0
    """β, the weight of the per-token KL in the reward; the paper has none."""
    kl_target: ClassVar[float] = 0.0  # no KL, and so none that could be steered
    kl_horizon: ClassVar[float] = 10_000.0
    clip_high: Annotated[float, Ge(0)] = 0.28
    """The upper clip, wider than the lower one."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """The policy's λ is never below this, which tells for answers below 20·`span` tokens; 0: the formula alone."""
    span: Annotated[float, Gt(0)] = 20.0
    """1/α in tokens, the paper's α being 0.05: the smaller, the more the policy trusts the sampled return."""
    imitation: Annotated[float, Ge(0)] = 0.1
    """μ, the weight of the negative log-likelihood of right answers."""
    right: float = 1.0
    """An answer is right where its reward is at least this."""

    def estimates(self, rewards: FloatNT, batch: Batch) -> tuple[FloatNT, FloatNT]:
        length = batch.mask.sum(1).clamp(min=1)
        lam = (1 - self.span / length).clamp(min=self.lam)  # (N,)
        advantages = fn.gae(rewards, batch.old_values, batch.mask, gamma=self.gamma, lam=lam)[0]
        return advantages, super().estimates(rewards, batch)[1]

    def prepare(self, batch: Batch) -> Batch:
        right = (batch.rewards >= self.right).float()  # (N,)
        share = batch.mask.sum() / (batch.mask.sum(1) * right).sum().clamp(min=1)
        return super().prepare(replace(batch, extra={**batch.extra, "right": right * share}))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        if self.warmup:
            return terms
        nll = -out.logprobs * fn.token_column(batch.extra["right"], batch.mask)
        return Terms(terms.loss + self.imitation * nll, {**terms.metrics, "loss/imitation": nll})
