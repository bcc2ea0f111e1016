"""What an optimizer does away from its start: each law catches one that is right at the first step, and wrong later."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn
from alignzoo.errors import PluginError
from alignzoo.registry.registrar import check_part
from alignzoo.testing import OPTIMIZER_CHECKS, ConformanceError, check_optimizer
from alignzoo.traits import WAIVABLE
from alignzoo_imitation.sft import SFT
from alignzoo_policy_gradient.gmpo import GMPO
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.reinforce import REINFORCE
from alignzoo_policy_gradient.rloo import RLOO
from alignzoo_preference.dpo import DPO
from alignzoo_reward_models.bradley_terry import RewardModel
from test_mutant_kinds import MUTANTS
from test_mutants_of_meaning import MUTANTS as OF_MEANING
from test_mutants_of_terms import MUTANTS as OF_TERMS


@dataclass(frozen=True)
class RatioToTheReference(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(replace(batch, old_logprobs=batch.ref_logprobs), out)


@dataclass(frozen=True)
class ReferenceAdded(DPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(replace(batch, ref_logprobs=-batch.ref_logprobs), out)


@dataclass(frozen=True)
class ReferenceOfTheBestAlone(DPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        best = torch.arange(len(batch))[:, None] % 2 == 0
        return super().loss(replace(batch, ref_logprobs=batch.ref_logprobs * best), out)


@dataclass(frozen=True)
class RewardsDistance(RLOO):
    def prepare(self, batch: Batch) -> Batch:
        changed = replace(batch, old_logprobs=batch.ref_logprobs, ref_logprobs=batch.old_logprobs)
        return replace(super().prepare(changed), old_logprobs=batch.old_logprobs, ref_logprobs=batch.ref_logprobs)


@dataclass(frozen=True)
class KLInTheLossWithoutGradient(GMPO):
    """k1 as a term of the loss: its gradient does not know the reference."""

    kl: float = 0.1

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = replace(self, kl=0.0).loss(batch, out) if self.kl else super().loss(batch, out)
        away = fn.kl_k1(fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask)) if self.kl else 0 * out.logprobs
        return Terms(terms.loss + self.kl * (away * fn.sequence_mean(batch.mask)).sum(1))


@dataclass(frozen=True)
class OtherDirection(GRPO):
    """k3 for samples of the reference, taken over those of the policy."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = replace(self, kl=0.0).loss(batch, out) if self.kl else super().loss(batch, out)
        if not self.kl:
            return terms
        return Terms(terms.loss + self.kl * fn.kl_k3(fn.log_ratio(batch.ref_logprobs, out.logprobs, batch.mask)))


@dataclass(frozen=True)
class SteersAway(PPO):
    def next(self, report: StepReport) -> PPO:
        return replace(self, kl=self.kl * self.kl / super().next(report).kl) if self.kl else self


@dataclass(frozen=True)
class BaselineRunsAway(REINFORCE):
    def next(self, report: StepReport) -> REINFORCE:
        after = super().next(report)
        return replace(after, baseline=2 * self.baseline - after.baseline)


@dataclass(frozen=True)
class Optimist(GRPO):
    """max in the place of min: outside of the trust region it goes on, inside it may not come back."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        advantages = fn.token_column(batch.advantages, batch.mask)
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return Terms(-torch.maximum(ratio * advantages, clipped * advantages))


@dataclass(frozen=True)
class BoundsChangedOver(GRPO):
    clip_high: float = 0.28

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return replace(GRPO(), kl=self.kl, clip=self.clip_high or 0.2, clip_high=self.clip).loss(batch, out)


@dataclass(frozen=True)
class FirstTokenForgotten(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        prepared = super().prepare(batch)
        return replace(prepared, weights=prepared.weights * (batch.mask.cumsum(1) > 1))


@dataclass(frozen=True)
class ScoreOnTheFirstToken(PPO):
    def prepare(self, batch: Batch) -> Batch:
        first = (batch.mask & (batch.mask.cumsum(1) == 1)) * batch.rewards[:, None]
        dense = first if batch.token_rewards is None else first + batch.token_rewards
        return super().prepare(replace(batch, rewards=0 * batch.rewards, token_rewards=dense))


@dataclass(frozen=True)
class AnyOutlierIsGood(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        prepared = super().prepare(batch)
        return replace(prepared, advantages=prepared.advantages**3 - prepared.advantages)


@dataclass(frozen=True)
class BaselineOfTheBatch(RLOO):
    def prepare(self, batch: Batch) -> Batch:
        return replace(super().prepare(replace(batch, group=0 * batch.group)), group=batch.group)


@dataclass(frozen=True)
class KLAfterTheBaseline(RLOO):
    def prepare(self, batch: Batch) -> Batch:
        away = fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask).sum(1) if self.kl else 0.0
        centred = batch.rewards - fn.leave_one_out(batch.rewards, batch.group)
        return replace(batch, advantages=centred - self.kl * away)


@dataclass(frozen=True)
class EntropyMalus(PPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(batch, replace(out, entropy=-out.entropy))


@dataclass(frozen=True)
class DenseTurned(PPO):
    def prepare(self, batch: Batch) -> Batch:
        dense = batch.token_rewards
        return super().prepare(replace(batch, token_rewards=None if dense is None else -dense))


@dataclass(frozen=True)
class DenseATokenLate(PPO):
    def prepare(self, batch: Batch) -> Batch:
        dense = None if batch.token_rewards is None else (batch.token_rewards * batch.mask).roll(1, 1) * batch.mask
        return super().prepare(replace(batch, token_rewards=dense))


@dataclass(frozen=True)
class WhitenedReturns(PPO):
    def prepare(self, batch: Batch) -> Batch:
        prepared = replace(self, whiten_advantages=True).prepare(batch) if not self.whiten_advantages else None
        prepared = prepared or super().prepare(batch)
        return replace(prepared, returns=(prepared.advantages + batch.old_values) * batch.mask)


@dataclass(frozen=True)
class OptimisticCritic(PPO):
    """min in the place of max: a critic that has left its return behind is let go."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        moved = (out.values - batch.old_values).clamp(-self.value_clip, self.value_clip)
        errors = (out.values - batch.returns) ** 2, (batch.old_values + moved - batch.returns) ** 2
        value = 0.5 * torch.minimum(*errors) * batch.mask
        return Terms(terms.loss + self.value_weight * (value - terms.metrics["loss/value"]))


@dataclass(frozen=True)
class PromptInTheLength(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        return replace(super().prepare(batch), weights=batch.mask / batch.attend.sum(1, keepdim=True))


@dataclass(frozen=True)
class DividesTwice(SFT):
    def prepare(self, batch: Batch) -> Batch:
        chosen = super().prepare(batch)
        return replace(chosen, weights=chosen.weights / chosen.mask.sum().clamp(min=1))


@dataclass(frozen=True)
class SmoothingAdds(DPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        margin = super().loss(batch, out).metrics["margin"]
        return Terms(-(1 + self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin))


@dataclass(frozen=True)
class MarginTurned(RewardModel):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        extra = {name: -column if name == self.margin else column for name, column in batch.extra.items()}
        return super().loss(replace(batch, extra=extra), out)


@dataclass(frozen=True)
class CountsElsewhere(GRPO):
    calls: ClassVar[list[int]] = []

    def prepare(self, batch: Batch) -> Batch:
        self.calls.append(1)
        return super().prepare(batch)


@dataclass(frozen=True)
class PythonsDice(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        random.random()
        return super().prepare(batch)


@dataclass(frozen=True)
class NumpysDice(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        np.random.seed(0)
        return super().prepare(batch)


@dataclass(frozen=True)
class NeedsForgotten(GRPO):
    """Right at its default, where nobody asks for the reference."""

    kl: float = 0.0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logprobs", "old_logprobs"} | ({"entropy"} if self.kl else set()))


AWAY: list[tuple[Any, str, int]] = [
    (RatioToTheReference(), "columns_read", 13),
    (ReferenceAdded(), "ratios", 13),
    (ReferenceOfTheBestAlone(), "ratios", 13),
    (RewardsDistance(), "kl_pull", 13),
    (KLInTheLossWithoutGradient(), "columns_read", 13),
    (OtherDirection(), "kl_estimate", 13),
    (SteersAway(kl_target=1.0), "adaptive", 13),
    (BaselineRunsAway(), "adaptive", 13),
    (Optimist(), "trust_region", 13),
    (BoundsChangedOver(), "trust_region", 13),
    (FirstTokenForgotten(), "every_token", 13),
    (ScoreOnTheFirstToken(), "every_token", 13),
    (AnyOutlierIsGood(), "ranking", 13),
    (BaselineOfTheBatch(), "baseline", 6),
    (KLAfterTheBaseline(), "baseline", 6),
    (EntropyMalus(entropy=0.01), "entropy_bonus", 13),
    (DenseTurned(), "dense_rewards", 13),
    (DenseATokenLate(), "dense_rewards", 13),
    (WhitenedReturns(), "returns", 13),
    (OptimisticCritic(), "value_loss", 13),
    (PromptInTheLength(), "normaliser", 1),
    (DividesTwice(), "normaliser", 1),
    (SmoothingAdds(), "label_smoothing", 13),
    (MarginTurned(), "margin", 13),
    (CountsElsewhere(), "pure", 3),
    (PythonsDice(), "pure", 3),
    (NumpysDice(), "pure", 3),
    (NeedsForgotten(), "needs", 2),
]


@pytest.mark.parametrize(("optimizer", "check", "law"), AWAY, ids=[f"{type(o).__name__}-{c}" for o, c, _ in AWAY])
def test_an_optimizer_that_is_wrong_later_is_caught(optimizer: Any, check: str, law: int) -> None:
    with pytest.raises(ConformanceError, match=f"law {law} is broken") as caught:
        check_optimizer(optimizer, only=[check])
    assert "runs" not in caught.value.expected or check == "needs"  # it was held to the law, and did not just end


def test_each_of_these_laws_catches_something_and_can_be_waived() -> None:
    mutants = (*MUTANTS.values(), *OF_MEANING.values(), *OF_TERMS.values())
    caught = {check for _, check, _ in AWAY} | {mutant.check for mutant in mutants}
    assert set(WAIVABLE) - {"first_step", "zero_advantage", "critic", "prefers_better"} <= caught
    assert set(WAIVABLE) <= set(OPTIMIZER_CHECKS)


@dataclass(frozen=True)
class Waived(Optimist):
    laws: ClassVar[Mapping[str, str]] = {"trust_region": "it explores"}


def test_a_law_that_does_not_apply_is_waived_with_a_reason() -> None:
    check_optimizer(Waived(), only=["contract", "trust_region", "ratios"])
    for laws, says in (
        ({"trust_regions": "it explores"}, "no law that can be waived. Did you mean 'trust_region'"),
        ({"padding": "it counts"}, "laws names 'padding', which is no law that can be waived"),
        ({"trust_region": " "}, "expected why it does not apply, in words"),
        (("trust_region",), "expected a table of laws"),
    ):
        part = type("Part", (Waived,), {"laws": laws})
        with pytest.raises(PluginError, match=says):
            check_part("optimizer", "part", part)
