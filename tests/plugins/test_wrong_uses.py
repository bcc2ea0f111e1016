"""Methods that would be others for want of rewards, of labels or of answers say so before anything trains."""

from __future__ import annotations

from typing import Any

import pytest

from alignzoo import DataError, PluginError, Prompt, RecipeError
from alignzoo.interfaces import CheckContext
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.traits import traits_of
from alignzoo_policy_gradient.ensemble_grpo import EnsembleGRPO
from alignzoo_policy_gradient.gdpo import GDPO
from alignzoo_policy_gradient.gfpo import GFPO
from alignzoo_policy_gradient.gfpo_efficiency import GFPOEfficiency
from alignzoo_policy_gradient.lagrangian_grpo import LagrangianGRPO
from alignzoo_policy_gradient.lagrangian_ppo import LagrangianPPO
from alignzoo_policy_gradient.max_min import MaxMin
from alignzoo_policy_gradient.pass_at_k import PassAtK
from alignzoo_preference.modpo import MODPO
from alignzoo_preference.npo import NPO
from alignzoo_reward_models.outcome import OutcomeRewardModel
from alignzoo_unpaired.apo_zero import APOZeroUnpaired
from alignzoo_unpaired.kto import KTO
from alignzoo_unpaired.mismatched import Mismatched
from alignzoo_unpaired.unlikelihood import Unlikelihood


def context(*rewards: str, labels: tuple[float, ...] = (), online: bool = False) -> CheckContext:
    prompts = [Prompt("a", ("b",), (label,)) for label in labels]
    return CheckContext(frozenset(), prompts, (), online, False, {}, Mismatched(), rewards=rewards)


@pytest.mark.parametrize("part", [GDPO(), MaxMin(), EnsembleGRPO(), MODPO()], ids=lambda part: type(part).__name__)
def test_one_reward_in_the_place_of_several_is_told(part: Any, caplog: pytest.LogCaptureFixture) -> None:
    part.check(context("helpful"))
    assert len(caplog.messages) == 1 and "and so" in caplog.messages[0]


def test_several_rewards_are_nothing_to_be_told(caplog: pytest.LogCaptureFixture) -> None:
    for part in (GDPO(), MaxMin(), EnsembleGRPO(), MODPO(others=("brief",)), LagrangianGRPO(cost="brief")):
        part.check(context("helpful", "brief"))
    assert not caplog.messages


@pytest.mark.parametrize(
    "part",
    [LagrangianGRPO(cost="harm"), LagrangianPPO(cost="harm"), MODPO(others=("harm",))],
    ids=lambda part: type(part).__name__,
)
def test_a_reward_that_the_run_does_not_have_is_named_before_it_trains(part: Any) -> None:
    with pytest.raises(PluginError, match="the run has no reward 'harm', it has: brief, helpful"):
        part.check(context("helpful", "brief"))


@pytest.mark.parametrize("part", [KTO(), APOZeroUnpaired(), Unlikelihood()], ids=lambda part: type(part).__name__)
@pytest.mark.parametrize(
    ("labels", "told"), [((1.0, 1.0), "are desirable"), ((0.0, 0.0), "are undesirable"), ((1.0, 0.0), ""), ((), "")]
)
def test_labels_of_one_kind_are_told(
    part: Any, labels: tuple[float, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    part.check(context("labels", labels=labels))
    assert len(caplog.messages) == bool(told) and told in "".join(caplog.messages)
    caplog.clear()
    part.check(context("labels", labels=labels, online=True))  # what is generated has other scores
    assert not caplog.messages


def test_without_a_bad_answer_there_is_nothing_to_unlearn() -> None:
    NPO().check(context("labels", labels=(1.0, 0.0)))
    NPO(threshold=2.0).check(context("labels", labels=(1.0, 1.0)))
    with pytest.raises(DataError, match=r"is below optimizer\.threshold=0\.5"):
        NPO().check(context("labels", labels=(1.0, 1.0)))


def test_a_setting_of_a_part_that_a_stage_does_not_have_says_whose_it_may_be() -> None:
    with pytest.raises(RecipeError, match=r"which other stage is meant, as in STAGE\.sampler\.n\. Known: .*policy"):
        load("iterative-dpo", ["sampler.n=1"], registry=Registry())


def test_a_verifier_of_answers_of_one_kind_is_refused() -> None:
    OutcomeRewardModel().check(context("labels", labels=(1.0, 0.0)))
    OutcomeRewardModel(threshold=2.0).check(context("labels", labels=(1.0, 3.0)))
    with pytest.raises(DataError, match="all answers of the data are wrong"):
        OutcomeRewardModel(threshold=2.0).check(context("labels", labels=(1.0, 0.0)))


def test_a_group_has_more_answers_than_are_kept_or_tried() -> None:
    found = [traits_of(part).completions for part in (GFPO(keep=5), GFPOEfficiency(keep=2), PassAtK(k=4), PassAtK())]
    assert found == [6, 3, 5, 3]
