"""Losses of single labelled answers: figures reckoned by hand, special cases, and KTO's mismatched answers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from alignzoo import Completion, DataError, PluginError, Policy, Prompt, Score, StepReport
from alignzoo.interfaces import CheckContext
from alignzoo.testing import toy_policy
from alignzoo.testing.world import toy_prompts
from alignzoo.types import Group
from alignzoo_unpaired.apo_zero import APOZeroUnpaired
from alignzoo_unpaired.bco import BCO
from alignzoo_unpaired.dro_v import DROV
from alignzoo_unpaired.implicit_prm import ImplicitPRM
from alignzoo_unpaired.kto import KTO
from alignzoo_unpaired.mismatched import Mismatched
from alignzoo_unpaired.pointwise import PointwiseDPO
from alignzoo_unpaired.ulma import ULMA
from alignzoo_unpaired.unlikelihood import Unlikelihood
from objectives import answers, logistic, objective

COLUMNS = {"logprobs": [-1.0, -2.0, -3.0], "ref_logprobs": [-2.0, -2.5, -1.0]}  # log-ratios of 1, 0.5 and -2
LABELS = [1.0, 0.0, 1.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_pointwise_dpo_and_apo_zero() -> None:
    found = objective(PointwiseDPO(beta=1.0), answers(LABELS), **COLUMNS)
    assert found.loss == pytest.approx((logistic(1.0) + logistic(-0.5) + logistic(-2.0)) / 3)
    assert found.metrics["accuracy"].tolist() == [1, 0, 0]
    found = objective(APOZeroUnpaired(beta=1.0), answers(LABELS), **COLUMNS)
    assert found.loss == pytest.approx(((1 - sigmoid(1)) + sigmoid(0.5) + (1 - sigmoid(-2))) / 3)


def test_an_implicit_process_reward_is_learnt_as_pointwise_dpo() -> None:
    one, other = (objective(o, answers(LABELS), **COLUMNS) for o in (ImplicitPRM(), PointwiseDPO(beta=0.05)))
    assert one.loss == other.loss and torch.equal(one.gradient["logprobs"], other.gradient["logprobs"])


def test_ulma_imitates_what_is_desirable_and_is_pointwise_elsewhere() -> None:
    found = objective(ULMA(beta=1.0), answers(LABELS), **COLUMNS)
    assert found.loss == pytest.approx((1.0 + logistic(-0.5) + 3.0) / 3)
    pointwise = objective(PointwiseDPO(beta=1.0), answers(LABELS), **COLUMNS).gradient["logprobs"]
    assert found.gradient["logprobs"].tolist() == pytest.approx([-1 / 3, float(pointwise[1]), -1 / 3])


def test_unlikelihood() -> None:
    # -log e^-1 = 1, -2·log(1 - e^-2) = 0.290827, 3; one token each
    found = objective(Unlikelihood(alpha=2.0), answers(LABELS), logprobs=COLUMNS["logprobs"])
    assert found.loss == pytest.approx((1 - 2 * math.log(1 - math.exp(-2)) + 3) / 3)
    # d/dl of -2·log(1 - e^l) = 2·e^l/(1 - e^l)
    slope = 2 * math.exp(-2) / (1 - math.exp(-2)) / 3
    assert found.gradient["logprobs"].tolist() == pytest.approx([-1 / 3, slope, -1 / 3])


def test_bco_parts_good_from_bad_at_the_running_mean() -> None:
    found = objective(BCO(beta=1.0, delta=0.25), answers(LABELS), **COLUMNS)
    assert found.loss == pytest.approx((logistic(0.75) + logistic(-0.25) + logistic(-2.25)) / 3)
    even = [objective(o, answers(LABELS), **COLUMNS).loss for o in (BCO(beta=1.0), PointwiseDPO(beta=1.0))]
    assert even[0] == even[1]


def test_the_running_mean_of_bco_is_that_of_all_answers() -> None:
    part = BCO()
    for step, (mean, n) in enumerate([(2.0, 4.0), (-1.0, 8.0), (0.5, 4.0)], 1):
        part = part.next(StepReport(step, 3, {"implicit": mean, "completions": n}))
    assert (part.delta, part.seen) == (pytest.approx((8 - 8 + 2) / 16), 16)
    assert part.next(StepReport(4, 4, {"completions": 4.0})) is part


def test_dro_is_content_where_the_policy_and_the_value_explain_the_reward() -> None:
    # τ = 0.5: r = V + 0.5·(1, 0.5, -2)
    content = objective(DROV(tau=0.5), answers([0.6, 0.35, -0.9]), values=[0.1] * 3, **COLUMNS)
    assert content.loss == pytest.approx(0, abs=1e-12)
    found = objective(DROV(tau=0.5), answers([1.6, 0.35, -0.9]), values=[0.1] * 3, **COLUMNS)
    assert found.loss == pytest.approx(0.5 / 3, abs=1e-6)  # off by 1 in one of three
    assert found.gradient["logprobs"].tolist() == pytest.approx([-0.5 / 3, 0, 0], abs=1e-6)
    assert found.gradient["values"].tolist() == pytest.approx([-1 / 3, 0, 0], abs=1e-6)


# --- KTO ----------------------------------------------------------------------------------------------------------


def test_kto_measures_its_baseline_by_mismatched_answers() -> None:
    columns = {"logprobs": [-1.0, -2.0, -1.5, -1.0], "ref_logprobs": [-2.0, -1.0, -2.0, -1.3]}
    batch = answers([1.0, 0.0, 1.0, 0.0], [0, 1, 2, 3], mismatched=[0.0, 0.0, 1.0, 1.0])
    # log-ratios 1 and -1; z = (0.5 + 0.3)/2 = 0.4; 2·(1 - σ(1 - 0.4)), 3·(1 - σ(0.4 - -1))
    found = objective(KTO(beta=1.0, desirable=2.0, undesirable=3.0), batch, **columns)
    assert found.loss == pytest.approx((2 * (1 - sigmoid(0.6)) + 3 * (1 - sigmoid(1.4))) / 2)
    assert found.gradient["logprobs"][2:].tolist() == [0, 0], "no gradient goes through z"
    assert found.metrics["baseline"].tolist() == pytest.approx([0.4] * 4)


def test_the_baseline_of_kto_is_never_negative() -> None:
    batch = answers([1.0, 0.0], [0, 1], mismatched=[0.0, 1.0])
    columns = {"logprobs": [-1.0, -3.0], "ref_logprobs": [-2.0, -1.0]}
    assert objective(KTO(beta=1.0), batch, **columns).loss == pytest.approx(1 - sigmoid(1.0))


def test_kto_without_a_baseline_is_apo_zero_and_of_a_small_beta_linear() -> None:
    one, other = (objective(o, answers(LABELS), **COLUMNS) for o in (KTO(), APOZeroUnpaired()))
    assert one.loss == pytest.approx(other.loss)
    small = objective(KTO(beta=1e-4), answers(LABELS), **COLUMNS).gradient["logprobs"]
    assert small.tolist() == pytest.approx([-1e-4 / 4 / 3, 1e-4 / 4 / 3, -1e-4 / 4 / 3], rel=1e-3)


def test_kto_asks_for_a_sampler_that_brings_mismatched_answers() -> None:
    context = CheckContext(KTO.needs, [], [], False, False, {})
    with pytest.raises(PluginError, match="set sampler=mismatched, or take a method of labels"):
        KTO().check(context)
    KTO().check(replace(context, sampler=Mismatched()))


def report(policy: Policy, sampler: Mismatched, prompts: list[Prompt], step: int) -> StepReport:
    groups = sampler.sample(prompts, policy, seeds=[0] * len(prompts))
    return StepReport(step, 9, {}, tuple(groups))


def test_a_first_step_has_no_mismatched_answers_and_later_ones_draw_them_from_other_prompts() -> None:
    policy, prompts = toy_policy(), toy_prompts(4)
    sampler = Mismatched(capacity=6)
    first = sampler.sample(prompts, policy, seeds=[0] * 4)
    assert [len(group.completions) for group in first] == [2] * 4
    sampler = sampler.next(report(policy, sampler, prompts, 1))
    assert len(sampler.pool) == 6
    second = sampler.sample(prompts, policy, seeds=[0] * 4)
    assert [len(group.completions) for group in second] == [2, 1] * 4
    own = {group.prompt_tokens: group.completions for group in second[0::2]}
    for group in second[1::2]:
        assert group.extra == {"mismatched": (1.0,)} and group.scores == (Score(0.5),)
        assert group.completions[0] not in own[group.prompt_tokens]
        assert any(group.completions[0] in others for others in own.values())
    again = sampler.next(report(policy, sampler, prompts, 2))
    assert all(len(group.completions) == 1 for group in again.pool)
    given = {completion.tokens for completions in own.values() for completion in completions}
    assert {group.completions[0].tokens for group in again.pool} <= given, "no mismatched ones"


def test_an_answer_without_a_label_is_an_error() -> None:
    with pytest.raises(DataError, match="1 answers but 0 labels"):
        Mismatched().sample([Prompt("x", ("y",))], toy_policy(), seeds=[0])


def test_an_unfinished_answer_stays_without_its_end() -> None:
    prompt = Prompt("x", ("y",), (1.0,), finished=(False,))
    (group,) = Mismatched().sample([prompt], toy_policy(), seeds=[0])
    assert isinstance(group, Group) and isinstance(group.completions[0], Completion)
    assert not group.completions[0].finished
