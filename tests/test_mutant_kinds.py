"""Mistakes of many kinds, written from the papers, in the zoo's own optimizers: the law of its kind catches each.

Only that law is made: whether it lets the originals through is held for the whole zoo elsewhere.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignzoo.testing import OPTIMIZER_CHECKS, ConformanceError, Given

PLUGINS = Path(__file__).parents[1] / "plugins"


@dataclass(frozen=True)
class Mutant:
    """An optimizer with one change in its source."""

    file: str
    name: str
    before: str
    after: str
    check: str
    """The law that has to catch it."""
    settings: Mapping[str, Any] = field(default_factory=dict)


def pair(file: str, name: str, *change: str, **settings: Any) -> Mutant:
    return Mutant(f"preference/{file}", name, *change, settings=settings)


def gradient(file: str, name: str, *change: str, **settings: Any) -> Mutant:
    return Mutant(f"policy_gradient/{file}", name, *change, settings=settings)


def unpaired(file: str, name: str, *change: str, **settings: Any) -> Mutant:
    return Mutant(f"unpaired/{file}", name, *change, settings=settings)


REWARD_MODEL = ("bradley_terry", "RewardModel")
GAE = "fn.gae(rewards, batch.old_values, batch.mask, gamma=self.gamma, lam=self.lam)"
PPO_ESTIMATES = "\n    def estimates(self, rewards, batch):\n        return {}\n\n    def prepare(self"
WITHOUT_NEXT = "fn.gae(rewards - batch.old_values, 0 * rewards, batch.mask, gamma=self.gamma, lam=self.lam)"
TURNED = (
    "tuple(each.flip(1) for each in fn.gae(rewards.flip(1), batch.old_values.flip(1), batch.mask.flip(1), "
    "gamma=self.gamma, lam=self.lam))"
)
CLIPPED = "fn.clipped_surrogate(ratio, {}, low=self.clip, high=self.clip{})"
PPO_CLIPPED = "return " + CLIPPED.format("advantages", "_high or self.clip")
RLOO_CLIPPED = CLIPPED.format("batch.advantages", "")
MINIMUM = (
    "0.5 * __import__('torch').minimum((out.values - batch.returns) ** 2, (batch.old_values + (out.values - "
    "batch.old_values).clamp(-self.value_clip, self.value_clip) - batch.returns) ** 2)"
)
K3_REWARD = "(fn.kl_k3(fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask)) * self.kl if self.kl else {})"

MUTANTS = {
    "β as a divisor": pair("dpo", "DPO", "self.rewards(pairs)\n", "pairs.log_ratio / self.beta\n", "kl_strength"),
    "a target of β": pair("ipo", "IPO", "1 / (2 * self.beta)) **", "self.beta / 2) **", "kl_strength"),
    "no reference": pair("dpo", "DPO", "self.rewards(pairs)\n", "self.beta * pairs.logprob\n", "ratios"),
    "the other answer's length": pair("simpo", "SimPO", "/ pairs.length", "/ pairs.length.flip(0)", "other_length"),
    "the other length, of ratios": pair("ipo", "IPO", "pairs.length if", "pairs.length.flip(0) if", "other_length"),
    "the loser's length": pair("rpo", "RPO", "/ pairs.length[0]", "/ pairs.length[1]", "other_length"),
    "smoothing on the wrong side": pair(
        *("dpo", "DPO", "- smoothing * log", "+ smoothing * log", "label_smoothing"), label_smoothing=0.1
    ),
    "a margin's sign": pair("simpo", "SimPO", "worse - self.gamma", "worse + self.gamma", "margin"),
    "an offset's sign": pair("odpo", "ODPO", "worse - offset", "worse + offset", "stakes"),
    "odds inverted": pair("orpo", "ORPO", "return mean - torch", "return mean + torch", "better_rises"),
    "the loser imitated": pair("rpo", "RPO", "pairs.logprob[0]", "pairs.logprob[1]", "better_rises"),
    "imitation subtracted": pair("cpo", "CPO", "comparison - self.nll", "comparison + self.nll", "better_rises"),
    "a penalty on the rise": pair("dpo_positive", "DPOPositive", "(-better).relu", "better.relu", "better_rises"),
    "a hinge on the wrong side": pair(
        *("slic", "SLiC", "(self.margin - (better - worse)).relu()", "-(better - worse - self.margin).relu()"),
        "prefers_better",
    ),
    "one choice that is another": gradient(
        "grpo", "GRPO", "scale=self.scale", 'scale="batch" if self.scale == "group" else self.scale', "settings"
    ),
    "whitened with the prompt": gradient(
        "ppo", "PPO", "(advantages, batch.mask)", "(advantages, batch.attend) * batch.mask", "normaliser"
    ),
    "whitened with the padding": gradient(
        "ppo", "PPO", "(advantages, batch.mask)", "(advantages, batch.mask | True) * batch.mask", "padding"
    ),
    "whitened in each minibatch": gradient(
        *("ppo", "PPO", "(ratio, batch.advantages)", "(ratio, fn.whiten(batch.advantages, batch.mask))"),
        "micro_batches",
    ),
    "k1 in the loss": gradient(
        *("grpo", "GRPO", "kl = super().penalty(batch, out)"),
        *("kl = fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask)", "zero_advantage"),
    ),
    "k3 in the reward": gradient(
        *("rloo", "RLOO", "self.penalty(batch).sum", K3_REWARD.format("self.penalty(batch)") + ".sum", "kl_pull")
    ),
    "no gradient in the ratio": gradient("ppo", "PPO", "log_ratio.exp(),", "log_ratio.exp().detach(),", "columns_read"),
    "bad answers clipped above": gradient(
        "ppo", "PPO", PPO_CLIPPED, "return -ratio.clamp(max=1 + self.clip) * advantages", "trust_region"
    ),
    "a clip without its min": gradient(
        *("rloo", "RLOO", RLOO_CLIPPED, "-ratio.clamp(1 - self.clip, 1 + self.clip) * batch.advantages"),
        "trust_region",
    ),
    "a ratio to itself": gradient(
        *("ppo", "PPO", "(out.logprobs, batch.old_logprobs,", "(out.logprobs, out.logprobs.detach(),"), "trust_region"
    ),
    "a weight of π_old/π": gradient("cispo", "CISPO", ").detach()", ").detach().reciprocal()", "trust_region"),
    "a cap as a floor": gradient("cispo", "CISPO", "clamp(max=self.cap)", "clamp(min=self.cap)", "columns_read"),
    "GAE from the wrong end": gradient(
        "ppo", "PPO", "\n    def prepare(self", PPO_ESTIMATES.format(TURNED), "every_token"
    ),
    "GAE without the next value": gradient(
        "ppo", "PPO", "\n    def prepare(self", PPO_ESTIMATES.format(WITHOUT_NEXT), "right_critic"
    ),
    "a target a token late": gradient(
        "ppo", "PPO", "returns=returns,", "returns=returns.roll(-1, 1) * batch.mask,", "right_critic"
    ),
    "γ as a divisor": gradient(
        *("ppo", "PPO", "\n    def prepare(self", PPO_ESTIMATES.format(GAE.replace("=self.gamma", "=1 / self.gamma"))),
        "discount",
    ),
    "1 - λ": gradient(
        *("ppo", "PPO", "\n    def prepare(self", PPO_ESTIMATES.format(GAE.replace("=self.lam", "=1 - self.lam"))),
        "discount",
    ),
    "values clipped by the minimum": gradient(
        *("ppo", "PPO", "fn.clipped_value_loss(out.values, batch.old_values, batch.returns, clip=self.value_clip)"),
        *(MINIMUM, "value_loss"),
    ),
    "the critic's sign": gradient("a2c", "A2C", "policy + self.value", "policy - self.value", "value_loss"),
    "a critic of advantages": gradient(
        "a2c", "A2C", "values - batch.returns", "values - batch.advantages", "critic_alone"
    ),
    "the entropy's sign": gradient("a2c", "A2C", "- self.entropy *", "+ self.entropy *", "entropy_bonus"),
    "a baseline that divides by n": gradient(
        *("rloo", "RLOO", "fn.leave_one_out(rewards, batch.group)"),
        *("(fn.group_mean(rewards, batch.group) - rewards / fn.group_size(batch.group))", "baseline"),
    ),
    "a baseline that moves away": gradient(
        "reinforce", "REINFORCE", "self.baseline + (mean", "self.baseline - (mean", "adaptive"
    ),
    "a token's reward a token late": gradient(
        *(
            "reinforce_pp",
            "REINFORCEPlusPlus",
            "+ batch.token_rewards",
            "+ batch.token_rewards.roll(1, 1) * batch.mask",
        ),
        "dense_rewards",
    ),
    "a token's return from the past": gradient(
        "reinforce_pp",
        "REINFORCEPlusPlus",
        "fn.gae(rewards, torch.zeros_like(rewards), batch.mask, gamma=self.gamma, lam=1.0)[1]",
        "rewards.cumsum(1) * self.gamma * batch.mask",
        "every_token",
    ),
    "rewards without their weights": gradient("gdpo", "GDPO", "batch.source_weights.get(name, 1.0)", "1.0", "sources"),
    "a gate of the wrong sign": gradient("sapo", "SAPO", "sigmoid(tau *", "sigmoid(-tau *", "better_rises"),
    "a cut on the wrong side": gradient("gmpo", "GMPO", "[:, None] > 0", "[:, None] < 0", "trust_region"),
    "a mask turned inward": gradient("dppo", "DPPO", "new > old, new < old", "new < old, new > old", "trust_region"),
    "a warmup without end": gradient("vc_ppo", "VCPPO", "self.warmup - 1)", "self.warmup + 1)", "adaptive"),
    "away from the teacher": Mutant(
        *("distillation/on_policy", "OnPolicyDistillation", '(batch["teacher_logprobs"], batch.old_logprobs,'),
        *('(batch.old_logprobs, batch["teacher_logprobs"],', "prefers_better"),
    ),
    "a divergence that is raised": Mutant("distillation/gkd", "GKD", "Terms(out", "Terms(-out", "kl_pull"),
    "the worst of n": Mutant("distillation/bond", "BOND", "rewards <= batch", "rewards >= batch", "ranking"),
    "a reference point with gradient": unpaired("kto", "KTO", "beta).detach()", "beta)", "weightless"),
    "labels swapped": unpaired("kto", "KTO", "margin = self", "margin = -self", "prefers_better"),
    "a shift that moves away": unpaired("bco", "BCO", "self.delta + (rep", "self.delta - (rep", "adaptive"),
    "a rank's hinge turned": unpaired("rrhf", "RRHF", "relu(-pairs", "relu(pairs", "every_token"),
    "all are rivals": unpaired(
        *("plackett_luce", "PLDPO", "rankings.plackett_luce(self.reward(batch, out), batch)"),
        *("-rankings.group_log_softmax(self.reward(batch, out), batch.group)", "prefers_better"),
    ),
    "centred by the difference": Mutant(
        *("reward_models/bradley_terry", "RewardModel", "[pairs.i] + out", "[pairs.i] - out", "centring")
    ),
    "pushed from the centre": Mutant(
        *("reward_models/bradley_terry", "RewardModel", "cost + self.cen", "cost - self.cen", "centring")
    ),
    "smoothing of the wrong sign": Mutant(
        *("reward_models/bradley_terry", "RewardModel", "- smoothing * log", "+ smoothing * log", "label_smoothing"),
        {"label_smoothing": 0.1},
    ),
    "a rating's sign": Mutant(
        "reward_models/regression", "RegressionRewardModel", "scores - batch", "scores + batch", "prefers_better"
    ),
    "all imitated alike": Mutant("imitation/sft", "SFT", "fn.best(batch)", "batch", "prefers_better"),
    "a tie that pulls": Mutant("self_play/sppo", "SPPO", '["wins"] - 0.5', '["wins"]', "every_token"),
    "a gap's sign": Mutant("self_play/rebel", "REBEL", "- pairs.gap(batch", "+ pairs.gap(batch", "prefers_better"),
}


@pytest.fixture
def mutated() -> Iterator[Any]:
    """Makes the optimizer of a mutant; its module is forgotten afterwards."""
    made: list[str] = []

    def make(mutant: Mutant) -> Any:
        family, _, file = mutant.file.partition("/")
        source = (PLUGINS / f"alignzoo_{family}" / f"{file}.py").read_text(encoding="utf-8")
        assert source.count(mutant.before) >= 1, "the mutant does not fit the source any more"
        module = types.ModuleType(f"mutant_{len(made)}")
        sys.modules[module.__name__] = module
        made.append(module.__name__)
        exec(compile(source.replace(mutant.before, mutant.after), module.__name__, "exec"), module.__dict__)
        return getattr(module, mutant.name)(**mutant.settings)

    yield make
    for name in made:
        sys.modules.pop(name, None)


SLOW = {"settings", "micro_batches"}
CASES = [pytest.param(k, marks=pytest.mark.slow) if m.check in SLOW else k for k, m in MUTANTS.items()]


@pytest.mark.parametrize("kind", CASES)
def test_the_law_of_its_kind_catches_a_mutant(kind: str, mutated: Any) -> None:
    mutant = MUTANTS[kind]
    with pytest.raises(ConformanceError):
        OPTIMIZER_CHECKS[mutant.check](mutated(mutant), Given())
