"""Mistakes in one term, one state or one row, in the zoo's own optimizers: the law of its kind catches each.

Only that law is made: whether it lets the originals through is held for the whole zoo elsewhere. Below are sound
optimizers of unusual forms, to which laws that look like theirs do not apply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import Batch, Forward, StepReport, Terms
from alignzoo import functional as fn
from alignzoo.testing import OPTIMIZER_CHECKS, ConformanceError, Given, check_optimizer
from test_mutant_kinds import Mutant, gradient, mutated, pair, unpaired

REPORTED_KL = 'report.metrics["kl"] / self.kl_target'
WINS = "self.win(margin) + self.win(-margin)"
LOG_RATIO = "fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask)"
CREDIT = "def credit(self"
SURROGATE = (
    "def surrogate(self, batch, out):\n        from alignzoo import Terms\n\n        ratio = {}\n"
    "        low, high = self.clip, self.clip_high or self.clip\n"
    "        advantages = fn.token_column(batch.advantages, batch.mask)\n"
    "        return Terms(fn.clipped_surrogate(ratio, advantages, low=low, high=high))\n\n    def credit(self"
)
FROM_THE_PROMPT = (
    "def surrogate(self, batch, out):\n        from alignzoo import Terms, functional as fn\n"
    "        last = (__import__('torch').arange(batch.mask.shape[1]) * batch.mask).max(1).values\n"
    f"        log_ratio = {LOG_RATIO}.sum(1) / (last - batch.prompt_length + 1)\n"
    "        ratio = fn.token_column(log_ratio, batch.mask).exp()\n"
    "        advantages = fn.token_column(batch.advantages, batch.mask)\n"
    "        return Terms(fn.clipped_surrogate(ratio, advantages, low=self.clip, high=self.clip_high or self.clip))\n\n"
    "    kl: Annotated"
)
ESTIMATES = (
    "\n    def estimates(self, rewards, batch):\n        import torch\n\n"
    "        values, mask = batch.old_values, batch.mask\n"
    "        credit, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])\n"
    "        running = torch.zeros_like(following)\n"
    "        for t in range(rewards.shape[1] - 1, -1, -1):\n            here = mask[:, t]\n"
    "            delta = rewards[:, t] + following - values[:, t]\n"
    "            running = torch.where(here, delta + self.gamma * self.lam * running, running)\n"
    "            following = torch.where(here, values[:, t], following)\n            credit[:, t] = running * here\n"
    "        return credit, (credit + values) * mask\n\n    def prepare(self"
)
AT_THE_END_OF_ALL = (
    "\n    def rewarded(self, batch):\n        rewards = 0 * batch.old_values\n"
    "        rewards[range(len(batch)), batch.attend.long().sum(1) - 1] = batch.rewards\n"
    "        return rewards * batch.mask\n\n    def prepare(self"
)
IN_ITS_PLACE = (
    "\n    def rewarded(self, batch):\n        dense = batch.token_rewards\n"
    "        return super().rewarded(batch) if dense is None else dense\n\n    def prepare(self"
)
WEIGHED_BY_THE_SAMPLER = (
    "def prepare(self, batch):\n        from dataclasses import replace\n        made = super().prepare(batch)\n"
    "        sampled = batch.extra.get('sampled_logprobs')\n        if sampled is None:\n            return made\n"
    "        weight = fn.truncated_importance_weights(sampled, batch.old_logprobs, 2.0)\n"
    "        return replace(made, weights=made.weights * weight * batch.mask)\n\n    def credit(self"
)
TO_COME = "self.penalty(batch).flip(1).cumsum(1).flip(1)"
OTHER_RATE = (
    "def next(self, report):\n        from dataclasses import replace\n\n"
    "        mean = report.metrics.get('implicit_reward', self.shift)\n"
    "        return replace(self, shift=self.shift_rate * self.shift + (1 - self.shift_rate) * mean)\n\n"
    "    def cost(self"
)

MUTANTS = {
    "the product of all ratios": gradient(
        "grpo", "GRPO", CREDIT, SURROGATE.format(f"fn.token_column({LOG_RATIO}.sum(1), batch.mask).exp()"), "level"
    ),
    "the product of ratios so far": gradient(
        "grpo", "GRPO", CREDIT, SURROGATE.format(f"({LOG_RATIO}.cumsum(1) * batch.mask).exp()"), "level"
    ),
    "the levels exchanged": gradient(
        *("grpo", "GRPO", CREDIT),
        SURROGATE.format('importance_ratio(batch, out, "sequence" if self.level == "token" else "token")'),
        "level",
    ),
    "a length that counts a tool's tokens": gradient("gspo", "GSPO", "kl: Annotated", FROM_THE_PROMPT, "holes"),
    "the next value without γ": gradient("ppo", "PPO", "\n    def prepare(self", ESTIMATES, "right_critic"),
    "token rewards in the answer's place": gradient("ppo", "PPO", "\n    def prepare(self", IN_ITS_PLACE, "dense_zero"),
    "a reward on a tool's token": gradient(
        "ppo", "PPO", "\n    def prepare(self", AT_THE_END_OF_ALL, "untrained_end", kl=0.0
    ),
    "rewards whitened with their mean": gradient(
        "ppo", "PPO", "batch.mask, shift=False", "batch.mask, shift=True", "raised_returns", whiten_rewards=True
    ),
    "the KL so far": gradient(
        *("reinforce_pp", "REINFORCEPlusPlus", "fn.whiten(returns, batch.mask)"),
        *(f"fn.whiten((returns + {TO_COME} - self.penalty(batch).cumsum(1)) * batch.mask, batch.mask)", "reach"),
    ),
    "dropped beyond the cap": gradient(
        "cispo", "CISPO", "ratio.clamp(max=self.cap)", "(ratio * (ratio <= self.cap))", "cap"
    ),
    "1 + the cap": gradient("cispo", "CISPO", "clamp(max=self.cap)", "clamp(max=1 + self.cap)", "cap"),
    "rewards cut off at 0": gradient(
        *(
            "grpo",
            "GRPO",
            "group_advantages(batch,",
            "group_advantages(__import__('dataclasses').replace(batch, rewards=batch.rewards.relu()),",
        ),
        "baseline",
    ),
    "the sampler's weight inverted": gradient("grpo", "GRPO", CREDIT, WEIGHED_BY_THE_SAMPLER, "sampled"),
    "a decay for the rate": gradient(
        *("reinforce", "REINFORCE", "(mean - self.baseline) / weight", "self.decay * (mean - self.baseline)", "rates")
    ),
    "a horizon that speeds up": gradient(
        *("ppo", "PPO", 'error * report.metrics["completions"] / self.kl_horizon'),
        *('error * self.kl_horizon / (self.kl_horizon + report.metrics["completions"])', "rates"),
    ),
    "1 - the rate": pair("bco", "BCO", "def cost(self", OTHER_RATE, "rates"),
    "a KL per token for the answer's": gradient(
        *("ppo", "PPO", REPORTED_KL, 'report.metrics["kl"] / report.metrics.get("length", 20.0) / self.kl_target'),
        "at_target",
    ),
    "the mean added": unpaired("bco", "BCO", "(batch, out, self.delta)", "(batch, out, -self.delta)", "carried"),
    "the mean of margins": unpaired("bco", "BCO", '"implicit": reward', '"implicit": margin', "carried"),
    "the shift added for one of two": pair(
        "bco", "BCO", "logsigmoid(-worse)", "logsigmoid(-worse - 2 * self.shift)", "carried"
    ),
    "β twice": unpaired(
        "kto", "KTO", "margin(batch, out, baseline)", "margin(batch, out, self.beta * baseline)", "role_point"
    ),
    "the point added for bad answers": unpaired(
        *("kto", "KTO", "margin(batch, out, baseline)"),
        *("margin(batch, out, torch.where(self.desirable_rows(batch), baseline, -baseline))", "role_point"),
    ),
    "others' answers trained on": unpaired(
        "kto", "KTO", "weights=weight * counted * share", "weights=weight", "role_point"
    ),
    "equals compared": pair(
        *("dpo", "DPO", "\n    def cost(self"),
        "\n    def prepare(self, batch):\n        from alignzoo import functional as fn\n\n"
        "        return fn.best_and_worst(batch, ties=True)\n\n    def cost(self",
        "ties",
    ),
    "a tie's sign lost": pair("rao_kupper", "RaoKupperDPO", WINS, "2 * self.win(margin)", "ties"),
    "a threshold's sign": pair("rao_kupper", "RaoKupperDPO", "margin - math.log", "margin + math.log", "margin"),
    "a threshold's sign, of scores": Mutant(
        *("reward_models/ties", "TiesRewardModel", "sign * gap - self", "sign * gap + self", "margin")
    ),
    "a switch turned round": pair(
        "ipo",
        "IPO",
        "if self.length_normalised else pairs",
        "if not self.length_normalised else pairs",
        "length_normalised",
    ),
    "the worse answer's likelihood": pair("simpo", "SimPO", "self.nll * better", "self.nll * worse", "nll", nll=0.1),
    "weighed before the choice": Mutant(
        *("imitation/sft", "SFT", "chosen = fn.best(batch)"),
        *(
            "chosen = fn.best(batch)\n        return fn.best(replace(batch, weights=fn.token_mean(batch.mask)))",
            "dropped",
        ),
    ),
    "weighed before the filter": Mutant(
        *("imitation/filtered", "FilteredSFT", "return replace(kept, weights=fn.token_mean(kept.mask))"),
        *("return replace(batch, weights=fn.token_mean(batch.mask)).select(batch.rewards > self.threshold)", "dropped"),
    ),
}


@pytest.mark.parametrize("kind", MUTANTS)
def test_the_law_of_its_kind_catches_a_mutant(kind: str, mutated: Any) -> None:
    mutant = MUTANTS[kind]
    part = mutated(mutant)
    columns = [f"{name}={','.join(map(str, some))}" for name, some in getattr(part, "columns", {}).items()]
    with pytest.raises(ConformanceError) as caught:
        OPTIMIZER_CHECKS[mutant.check](part, Given(columns=columns))
    assert "runs" not in caught.value.expected  # it was held to the law, and did not just end


# --- sound, in unusual forms ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """A policy gradient with the other answers' mean as baseline."""

    epochs: int = 1
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    couples: ClassVar[str] = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})

    def credit(self, batch: Batch) -> torch.Tensor:
        return batch.rewards - fn.leave_one_out(batch.rewards, batch.group)

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=self.credit(batch), weights=fn.token_mean(batch.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).exp()
        return Terms(-ratio * fn.token_column(batch.advantages, batch.mask))


@dataclass(frozen=True)
class FadingKL(Plain):
    """A KL whose weight falls from step to step, whatever it is."""

    kl: float = 0.1
    steps: int = 100
    done: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})

    def loss(self, batch: Batch, out: Forward) -> Terms:
        away = fn.kl_k3(fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask))
        return Terms(super().loss(batch, out).loss + self.kl * max(0.0, 1 - self.done / self.steps) * away)

    def next(self, report: StepReport) -> FadingKL:
        return replace(self, done=self.done + 1)


@dataclass(frozen=True)
class RunningDeviation(Plain):
    """Rewards by their running deviation, which says nothing of a KL."""

    square: float = 1.0
    momentum: float = 0.9
    kl: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})

    def credit(self, batch: Batch) -> torch.Tensor:
        away = fn.log_ratio(batch.old_logprobs, batch.ref_logprobs, batch.mask).sum(1)
        rewards = batch.rewards - self.kl * away
        return (rewards - fn.leave_one_out(rewards, batch.group)) / math.sqrt(max(self.square, 1e-8))

    def next(self, report: StepReport) -> RunningDeviation:
        spread = report.metrics.get("reward/std", 1.0)
        return replace(self, square=self.momentum * self.square + (1 - self.momentum) * spread**2)


@dataclass(frozen=True)
class ImitatesOnline:
    """The best of what the policy generates is imitated, and nothing is learnt from the others."""

    epochs: int = 1
    online: ClassVar[bool] = True
    completions: ClassVar[int] = 2
    imitates: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        chosen = fn.best(batch)
        return replace(chosen, weights=fn.token_mean(chosen.mask))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-out.logprobs)


@dataclass(frozen=True)
class OneAction(Plain):
    """A completion is one action, and its tokens' rewards are the action's; no baseline."""

    completions: ClassVar[int] = 1

    def credit(self, batch: Batch) -> torch.Tensor:
        dense = 0.0 if batch.token_rewards is None else batch.token_rewards.sum(1)
        return batch.rewards + dense

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=self.credit(batch))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        ratio = fn.log_ratio(out.logprobs, batch.old_logprobs, batch.mask).sum(1).exp()
        return Terms(-ratio * batch.advantages)


SOUND = [
    (FadingKL(), "adaptive"),
    (RunningDeviation(), "adaptive"),
    (ImitatesOnline(), "loser_falls"),
    (OneAction(), "dense_rewards"),
]


@pytest.mark.parametrize(
    ("part", "check"), SOUND, ids=lambda each: each if isinstance(each, str) else type(each).__name__
)
def test_a_sound_optimizer_of_another_form_is_let_through(part: Any, check: str) -> None:
    check_optimizer(part, only=[check])


@pytest.mark.parametrize("part", [Plain(), FadingKL(), RunningDeviation(), ImitatesOnline(), OneAction()], ids=str)
def test_and_so_do_the_laws_of_terms(part: Any) -> None:
    check_optimizer(part, only=sorted({mutant.check for mutant in MUTANTS.values()}))


__all__ = ["mutated"]
