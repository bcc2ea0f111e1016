"""More mistakes, written from the papers: what names say, what stays apart, and who learns from what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from torch import Tensor

from alignzoo.testing import OPTIMIZER_CHECKS, ConformanceError, Given
from alignzoo_preference.pairs import Pairs
from alignzoo_preference.simpo import SimPO
from test_mutant_kinds import REWARD_MODEL, Mutant, gradient, mutated, pair, unpaired

GRPO_CREDIT = "return fn.group_advantages(batch, scale=self.scale)"
GRPO_PREPARED = (
    f"{GRPO_CREDIT}\n\n    def prepare(self, batch):\n        from dataclasses import replace\n"
    "        batch = super().prepare(batch)\n        told = {{'finished', 'staleness', 'turn'}} & batch.extra.keys()\n"
    "        if not told:\n            return batch\n        changed, weights = {}\n"
    "        return replace(batch, weights=weights) if changed else batch"
)
DPO_COST = "def cost(self"
WITH_METRICS = (
    "def loss(self, batch, out):\n        terms = super().loss(batch, out)\n        m = terms.metrics\n"
    "        return type(terms)(terms.loss, {{**m, {}}})\n\n    def cost(self"
)

MUTANTS = {
    "an accuracy of the wrong ones": pair(
        "dpo", "DPO", DPO_COST, WITH_METRICS.format("'accuracy': 1 - m['accuracy']"), "figures"
    ),
    "a margin's figure turned": pair("ipo", "IPO", DPO_COST, WITH_METRICS.format("'margin': -m['margin']"), "figures"),
    "chosen and rejected exchanged": pair(
        *("simpo", "SimPO", DPO_COST),
        WITH_METRICS.format("'reward_chosen': m['reward_rejected'], 'reward_rejected': m['reward_chosen']"),
        "figures",
    ),
    "a reward model's accuracy of the wrong ones": Mutant(
        *(f"reward_models/{REWARD_MODEL[0]}", REWARD_MODEL[1]),
        *("rankings.ranked_right(pairs, out.scores,", "1 - rankings.ranked_right(pairs, out.scores,", "figures"),
    ),
    "a distance below 0": gradient(
        "ppo", "PPO", '"approx_kl": fn.kl_k3(-log_ratio)', '"approx_kl": -fn.kl_k3(-log_ratio)', "figures"
    ),
    "token 0 taken for padding": gradient(
        *("ppo", "PPO", "weights = fn.token_mean(batch.mask)"),
        *("weights = fn.token_mean(batch.mask & (batch.tokens != 0))", "token_numbers"),
    ),
    "token 1 taken for the end": pair(
        *("dpo", "DPO", "def cost(self"),
        "def prepare(self, batch):\n        batch = super().prepare(batch)\n        from dataclasses import replace\n"
        "        return replace(batch, mask=batch.mask & (batch.tokens != 1))\n\n    def cost(self",
        "token_numbers",
    ),
    "the other direction's divergence": Mutant(
        *("distillation/gkd", "GKD", 'f"teacher_jsd:{self.beta:g}"', 'f"teacher_jsd:{1 - self.beta:g}"'),
        *("column_number", {"beta": 0.1}),
    ),
    "the sides' weights exchanged": unpaired(
        *("kto", "KTO", "self.desirable, self.undesirable)", "self.undesirable, self.desirable)", "sides")
    ),
    "the batch's success for the prompt's": gradient(
        *("maxrl", "MaxRL", "mean = fn.group_mean(batch.rewards, batch.group)"),
        *("mean = fn.group_mean(batch.rewards, 0 * batch.group)", "other_groups"),
    ),
    "the batch's mean length for the prompt's": gradient(
        *("opo", "OPO", "fn.group_mean(length * batch.rewards, batch.group) / fn.group_mean(length, batch.group)"),
        *("fn.group_mean(length * batch.rewards, 0 * batch.group) / fn.group_mean(length, 0 * batch.group)",),
        "other_groups",
    ),
    "good answers alone": gradient("grpo", "GRPO", GRPO_CREDIT, f"{GRPO_CREDIT}.clamp(min=0)", "loser_falls"),
    "a discount by place": gradient(
        *("ppo", "PPO", "rewards = self.rewarded(batch)"),
        *("rewards = self.rewarded(batch) * self.gamma ** (batch.mask.cumsum(1) - 1)", "last_reward"),
    ),
    "an abstention taken for 0": gradient(
        "gdpo", "GDPO", "known = (~values.isnan()).float()", "known = torch.ones_like(values)", "abstained"
    ),
    "the whole answer's teacher on each token": Mutant(
        *("distillation/on_policy", "OnPolicyDistillation", "advantages=nearer,"),
        *("advantages=fn.token_column(nearer.sum(1), batch.mask),", "no_hindsight"),
    ),
    "the past credited": Mutant(
        *("distillation/minillm", "MiniLLM", "nearer.flip(1).cumsum(1).flip(1) - nearer"),
        *("nearer.cumsum(1) - nearer", "no_hindsight"),
    ),
    "scores cut to a range": Mutant(
        *(f"reward_models/{REWARD_MODEL[0]}", REWARD_MODEL[1], "gap = pairs.gap(out.scores)"),
        *("gap = pairs.gap(out.scores.clamp(-2, 2))", "far_behind"),
    ),
    "a rating cut to a range": Mutant(
        *("reward_models/regression", "RegressionRewardModel", "error = out.scores - batch.rewards"),
        *("error = out.scores.clamp(-1, 1) - batch.rewards", "far_behind"),
    ),
    "each token pays for all": gradient(
        *("grpo", "GRPO", "kl = super().penalty(batch, out)"),
        *("kl = super().penalty(batch, out).sum(1, keepdim=True) * batch.mask", "kl_share"),
    ),
    "those dropped that have ended": gradient(
        *("grpo", "GRPO", GRPO_CREDIT),
        GRPO_PREPARED.format(
            "batch.extra['finished'].min() < 1, batch.weights * (1 - batch.extra['finished'][:, None])"
        ),
        "cut_off",
    ),
    "what was cut off counts twice": gradient(
        *("grpo", "GRPO", GRPO_CREDIT),
        GRPO_PREPARED.format("True, batch.weights * (2 - batch.extra['finished'][:, None])"),
        "cut_off",
    ),
    "the oldest weigh most": gradient(
        *("grpo", "GRPO", GRPO_CREDIT),
        GRPO_PREPARED.format("True, batch.weights * (1 + batch.extra['staleness'][:, None])"),
        "staleness",
    ),
    "the first turn alone": gradient(
        *("grpo", "GRPO", GRPO_CREDIT),
        GRPO_PREPARED.format("True, batch.weights * (batch.extra['turn'] == 0)"),
        "turns",
    ),
    "the second turn taken for the last": gradient(
        *("grpo", "GRPO", GRPO_CREDIT),
        GRPO_PREPARED.format("True, batch.weights * (batch.extra['turn'] <= 1)"),
        "turns",
    ),
    "a KL by the answer's length": gradient(
        *("dapo", "DAPO", "clip_high: Annotated"),
        "def penalty(self, batch, out):\n        return super().penalty(batch, out) / batch.mask.sum(1, keepdim=True)"
        "\n\n    clip_high: Annotated",
        "kl_share",
        kl=0.1,
    ),
}
"""Each with the law of its kind. What is another algorithm rather than a mistake is not here: a sum in the place of a
mean over an answer's tokens, a bounded loss, a gradient that is stopped, a group that weighs by its pairs."""


@pytest.mark.parametrize("kind", MUTANTS)
def test_the_law_of_its_kind_catches_a_mutant(kind: str, mutated: Any) -> None:
    mutant = MUTANTS[kind]
    part = mutated(mutant)
    with pytest.raises(ConformanceError):
        OPTIMIZER_CHECKS[mutant.check](part, Given())


@dataclass(frozen=True)
class OneLength(SimPO):
    """SimPO by the better answer's length, which does not say by its trait that it compares answers."""

    completions: ClassVar[int] = 1

    def rewards(self, pairs: Pairs) -> Tensor:
        return self.beta * pairs.logprob / pairs.length[0]


def test_who_does_not_say_that_it_compares_is_held_to_what_comparing_asks() -> None:
    with pytest.raises(ConformanceError, match="the length of one answer taken for the other's"):
        OPTIMIZER_CHECKS["other_length"](OneLength(), Given())


__all__ = ["mutated"]
