"""The first-party optimizers keep every law, and each law catches an optimizer that breaks it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn
from alignzoo.interfaces import Optimizer, Policy
from alignzoo.testing import (
    OPTIMIZER_CHECKS,
    Check,
    ConformanceError,
    check_optimizer,
    parametrize_with_checks,
    toy_policy,
)
from alignzoo.traits import WAIVABLE
from alignzoo_distillation.bond import BOND
from alignzoo_imitation.sft import SFT
from alignzoo_policy_gradient.gmpo import GMPO
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.reinforce import REINFORCE
from alignzoo_policy_gradient.rloo import RLOO
from alignzoo_preference.dpo import DPO
from alignzoo_reward_models.bradley_terry import RewardModel

OPTIMIZERS = [
    SFT(),
    DPO(),
    DPO(label_smoothing=0.1),
    RewardModel(),
    RewardModel(centring=0.01),
    RewardModel(margin="margin"),
    GRPO(),
    GRPO(scale="none", kl=0.0),
    GRPO(unbiased_kl=True),
    PPO(),
    PPO(whiten_rewards=True),
    PPO(whiten_advantages=False, gamma=0.9),
    PPO(entropy=0.01),
    PPO(kl_target=1.0),
    RLOO(),
    REINFORCE(),
    GMPO(),
    BOND(),
]


@parametrize_with_checks(*OPTIMIZERS, columns=("margin",))
def test_first_party_optimizers_conform(check: Check, part: Optimizer) -> None:
    check(part)


# --- broken optimizers: each breaks one law in the way that one does by mistake -----------------------------------


@dataclass(frozen=True)
class WrongSign(DPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return replace(terms, loss=-terms.loss)


@dataclass(frozen=True)
class WorstFirst(DPO):
    def prepare(self, batch: Batch) -> Batch:
        pairs = fn.best_and_worst(batch)
        return pairs.select(torch.arange(len(pairs)) ^ 1)


@dataclass(frozen=True)
class WrongSignOfScores(RewardModel):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(batch, replace(out, scores=-out.scores))


@dataclass(frozen=True)
class SumsOverPrompt(DPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        reward = self.beta * (out.logprobs - batch.ref_logprobs).sum(1)
        margin = (reward[0::2] - reward[1::2]).repeat_interleave(2)
        return Terms(-torch.nn.functional.logsigmoid(margin))


@dataclass(frozen=True)
class WeighsPrompt(SFT):
    def prepare(self, batch: Batch) -> Batch:
        chosen = fn.best(batch)
        return replace(chosen, weights=chosen.attend.float())


@dataclass(frozen=True)
class MeanOverMicroBatch(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs / len(batch))


@dataclass(frozen=True)
class BaselineOfMicroBatch(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(replace(batch, advantages=batch.rewards - batch.rewards.mean()), out)


@dataclass(frozen=True)
class ReducesByItself(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs.mean())


@dataclass(frozen=True)
class SaysRowButCouplesPairs(DPO):
    couples: ClassVar[str] = "row"


@dataclass(frozen=True)
class MisspeltCouples(DPO):
    couples: ClassVar[str] = "pair"


@dataclass(frozen=True)
class MeanOverWidth(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs.mean(1))

    def prepare(self, batch: Batch) -> Batch:
        return fn.best(batch)


@dataclass(frozen=True)
class FavoursFirstGroup(SFT):
    def prepare(self, batch: Batch) -> Batch:
        chosen = super().prepare(batch)
        return replace(chosen, weights=chosen.weights / (1 + torch.arange(len(chosen)))[:, None])


@dataclass(frozen=True)
class MutatesInPrepare(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        batch.rewards.clamp_(-1, 1)
        return super().prepare(batch)


@dataclass(frozen=True)
class MutatesInLoss(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        batch.advantages.mul_(0.5)
        return super().loss(batch, out)


@dataclass(frozen=True)
class MutatesTheAnswer(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        out.logprobs.clamp_(min=-1)
        return super().loss(batch, out)


@dataclass(frozen=True)
class Random(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs * (torch.rand(len(batch), 1) > 0.1))


@dataclass(frozen=True)
class RandomPrepare(SFT):
    def prepare(self, batch: Batch) -> Batch:
        chosen = super().prepare(batch)
        return replace(chosen, weights=chosen.weights * random.random())


@dataclass(frozen=True)
class Seeds(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        torch.manual_seed(0)
        return Terms(-out.logprobs * (1 + torch.rand(len(batch), 1)))


@dataclass(frozen=True)
class Unpicklable(SFT):
    schedule: Callable[[int], float] = field(default_factory=lambda: lambda step: 1.0)


@dataclass
class NotFrozen:
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    prepare = SFT.prepare
    loss = SFT.loss


@dataclass(frozen=True)
class MisspeltNeed(SFT):
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "logprob"})


@dataclass(frozen=True)
class UndeclaredReference(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-(out.logprobs - batch.ref_logprobs))


@dataclass(frozen=True)
class UndeclaredEntropy(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(super().loss(batch, out).loss - 0.01 * out.entropy)


@dataclass(frozen=True)
class SaysItReadsNoRewards(GRPO):
    reads_rewards: ClassVar[bool] = False


@dataclass(frozen=True)
class NaNOnTies(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        centred = batch.rewards - fn.group_mean(batch.rewards, batch.group)
        spread = fn.group_std(batch.rewards, batch.group)
        return replace(super().prepare(batch), advantages=centred / spread)


@dataclass(frozen=True)
class NoRowsNoMean(SFT):
    def prepare(self, batch: Batch) -> Batch:
        chosen = super().prepare(batch)
        return replace(chosen, weights=chosen.weights * torch.tensor(1 / len(chosen)))


@dataclass(frozen=True)
class UnboundedRatio(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(-(ratio**3) * fn.token_column(batch.advantages, batch.mask))


@dataclass(frozen=True)
class SwappedRatio(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        ratio = fn.log_ratio(batch.old_logprobs, out.logprobs, batch.mask).exp()
        return replace(terms, loss=fn.clipped_surrogate(ratio, fn.token_column(batch.advantages, batch.mask)))


@dataclass(frozen=True)
class OldFromSampler(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        return replace(super().prepare(batch), old_logprobs=batch.old_logprobs.bfloat16().float())


@dataclass(frozen=True)
class NoRatio(GRPO):
    """The probability where the ratio should be: right in sign, wrong in size."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs.exp() * fn.token_column(batch.advantages, batch.mask))


@dataclass(frozen=True)
class CountsFromOne(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        terms = super().loss(batch, out)
        return replace(terms, metrics={"clip_fraction": terms.metrics["clip_fraction"] + 1})


@dataclass(frozen=True)
class NoBaseline(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        return replace(super().prepare(batch), advantages=batch.rewards + 1)


@dataclass(frozen=True)
class LostGradient(GRPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(batch, replace(out, logprobs=out.logprobs.detach()))


@dataclass(frozen=True)
class LostCritic(PPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(batch, replace(out, values=out.values.detach()))


@dataclass(frozen=True)
class TakenMetric(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs, {"reward/mean": batch.rewards})


@dataclass(frozen=True)
class ReducedMetric(SFT):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs, {"nll": -out.logprobs.mean()})


@dataclass(frozen=True)
class MisnamedMetric(PPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return replace(super().loss(batch, out), metrics={"value_loss": out.values})


@dataclass(frozen=True)
class AdvantageOfTheCritic(PPO):
    """Pulls the critic towards whatever the policy likes: the detach() is missing."""

    def loss(self, batch: Batch, out: Forward) -> Terms:
        log_ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)
        advantages = (batch.returns - out.values + batch.advantages) * batch.mask
        policy = fn.clipped_surrogate(log_ratio.exp(), advantages)
        return Terms(policy + 0.1 * fn.clipped_value_loss(out.values, batch.old_values, batch.returns))


@dataclass(frozen=True)
class LostEntropy(PPO):
    def loss(self, batch: Batch, out: Forward) -> Terms:
        return super().loss(batch, replace(out, entropy=torch.zeros_like(out.entropy)))


@dataclass(frozen=True)
class ForgetsItsState(GRPO):
    """A baseline that a checkpoint cannot hold: a tensor."""

    baseline: Any = None

    def prepare(self, batch: Batch) -> Batch:
        prepared = super().prepare(batch)
        known = 0.0 if self.baseline is None else self.baseline
        return replace(prepared, advantages=prepared.advantages + 0.1 * known)

    def next(self, report: StepReport) -> ForgetsItsState:
        return replace(self, baseline=torch.tensor(report.metrics["reward/mean"]))


@dataclass(frozen=True)
class AsksWhetherItIsThere(GRPO):
    def prepare(self, batch: Batch) -> Batch:
        prepared = super().prepare(batch)
        return prepared if batch.old_logprobs is None else replace(prepared, weights=2 * prepared.weights)


BROKEN: list[tuple[Any, str, int]] = [
    (MeanOverMicroBatch(), "micro_batches", 1),
    (BaselineOfMicroBatch(), "micro_batches", 1),
    (BaselineOfMicroBatch(), "processes", 1),
    (SaysRowButCouplesPairs(), "micro_batches", 1),
    (MisspeltCouples(), "contract", 2),
    (ReducesByItself(), "reduction", 1),
    (MeanOverWidth(), "padding", 1),
    (FavoursFirstGroup(), "group_order", 1),
    (SumsOverPrompt(), "mask", 2),
    (WeighsPrompt(), "mask", 2),
    (MisspeltNeed(), "contract", 2),
    (UndeclaredReference(), "needs", 2),
    (UndeclaredEntropy(), "needs", 2),
    (NotFrozen(), "contract", 3),
    (Unpicklable(), "contract", 3),
    (MutatesInPrepare(), "pure", 3),
    (MutatesInLoss(), "pure", 3),
    (MutatesTheAnswer(), "pure", 3),
    (Random(), "pure", 3),
    (RandomPrepare(), "pure", 3),
    (AsksWhetherItIsThere(), "reads", 3),
    (SaysItReadsNoRewards(), "reads", 3),
    (Seeds(), "pure", 3),
    (NaNOnTies(), "hard_inputs", 4),
    (NoRowsNoMean(), "hard_inputs", 4),
    (UnboundedRatio(), "hard_inputs", 4),
    (OldFromSampler(), "first_step", 5),
    (NoRatio(), "first_step", 5),
    (CountsFromOne(), "first_step", 5),
    (WrongSign(), "prefers_better", 6),
    (WorstFirst(), "prefers_better", 6),
    (WrongSignOfScores(), "prefers_better", 6),
    (SwappedRatio(), "prefers_better", 6),
    (LostGradient(), "prefers_better", 6),
    (NoBaseline(), "zero_advantage", 6),
    (LostCritic(), "critic", 6),
    (TakenMetric(), "metrics", 8),
    (ReducedMetric(), "metrics", 8),
    (MisnamedMetric(), "metrics", 8),
    (AdvantageOfTheCritic(), "critic_alone", 6),
    (LostEntropy(), "settings", 13),
    (ForgetsItsState(), "resume", 7),
    (LostGradient(), "length_bias", 6),
]


@pytest.mark.parametrize(("optimizer", "check", "law"), BROKEN, ids=[f"{type(o).__name__}-{c}" for o, c, _ in BROKEN])
def test_a_broken_optimizer_is_caught(optimizer: Any, check: str, law: int) -> None:
    with pytest.raises(ConformanceError, match=f"law {law} is broken") as caught:
        check_optimizer(optimizer, only=[check])
    assert caught.value.law == law
    for part in ("input:", "expected:", "found:", "usual cause:"):
        assert part in str(caught.value)


def test_every_check_catches_something() -> None:
    away = set(WAIVABLE) - {"first_step", "zero_advantage", "critic", "prefers_better"}  # test_conformance_away
    assert {check for _, check, _ in BROKEN} == set(OPTIMIZER_CHECKS) - away


def test_check_optimizer_makes_every_check_and_names_those_that_there_are() -> None:
    check_optimizer(SFT())
    with pytest.raises(ConformanceError, match="law 8"):
        check_optimizer(TakenMetric())
    with pytest.raises(ValueError, match="Did you mean 'padding'"):
        check_optimizer(SFT(), only=["paddings"])


def test_the_toy_policy_is_a_policy() -> None:
    policy, twin = toy_policy(3), toy_policy(3)
    assert isinstance(policy, Policy)
    policy.drift(0.5, seed=1)
    assert not torch.equal(policy.weights["head"], twin.weights["head"])
    policy.restore(twin.state())
    assert torch.equal(policy.weights["head"], twin.weights["head"])
