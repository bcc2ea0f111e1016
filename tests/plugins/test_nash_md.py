"""Nash-MD by hand: preferences over the mixture's answer are learnt from, and the mixture's own answers are not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from alignzoo import PluginError, Prompt
from alignzoo.decoding import Decoding
from alignzoo.functional import derive
from alignzoo.interfaces import CheckContext
from alignzoo.testing.world import toy_policy
from alignzoo_samplers import PolicySampler
from alignzoo_self_play.nash_md import AndMixture, NashMD
from objectives import answers, objective

SAID: dict[str, Any] = {"logprobs": [-1.0, -2.0], "old_logprobs": [-1.0, -9.0], "ref_logprobs": [-1.5, -9.0]}


def test_an_answer_is_raised_by_how_often_it_beats_the_mixtures() -> None:
    found = objective(NashMD(tau=0.1), answers([1.0, 0.0], by_mixture=[0.0, 1.0]), **SAID)
    advantage = 1 / (1 + math.exp(-1.0)) - 0.5 - 0.1 * 0.5  # P - 1/2 - τ·(log π - log π_ref)
    assert found.prepared.advantages.tolist() == pytest.approx([advantage])
    assert found.loss == pytest.approx(advantage)  # the answer's log-probability is -1
    assert found.gradient["logprobs"].tolist() == pytest.approx([-advantage, 0.0])


def test_at_equal_scores_only_the_kl_is_left() -> None:
    tied = objective(NashMD(tau=0.1), answers([2.0, 2.0], by_mixture=[0.0, 1.0]), **SAID)
    assert tied.prepared.advantages.tolist() == pytest.approx([-0.05])
    free = objective(NashMD(tau=0.0), answers([2.0, 2.0], by_mixture=[0.0, 1.0]), **SAID)
    assert free.prepared.advantages.tolist() == pytest.approx([0.0])


def test_without_the_mixtures_answer_a_prompt_is_left_out() -> None:
    found = objective(NashMD(), answers([1.0, 0.0]), **SAID)
    assert len(found.prepared) == 0


def test_the_sampler_brings_one_answer_of_each() -> None:
    policy = toy_policy(drift=0.5)
    prompts, seeds = [Prompt("a"), Prompt("b c")], [3, 4]
    groups = AndMixture(0.5).sample(prompts, policy, seeds=seeds)
    mixed = Decoding(mix=(("ref", 0.5),))
    own = policy.generate(prompts, 1, seeds=[derive(seed, "policy") for seed in seeds])
    other = policy.generate(prompts, 1, seeds=[derive(seed, "mixture") for seed in seeds], decoding=mixed)
    for group, one, two in zip(groups, own, other, strict=True):
        assert group.extra["by_mixture"] == (0.0, 1.0)
        assert group.completions[0] == one.completions[0]
        assert group.completions[1].tokens == two.completions[0].tokens and group.completions[1].logprobs is None


def test_another_sampler_is_refused() -> None:
    context = CheckContext(NashMD.needs, (), (), True, False, {}, PolicySampler(2))
    with pytest.raises(PluginError, match="sampler=and-mixture"):
        NashMD().check(context)
