"""Steps without a gradient: how they are known, why, what is told, and that a run of nothing else saves no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from alignzoo import Batch, Forward, Group, RunError, Score, Terms
from alignzoo import functional as fn
from alignzoo.metrics import comparisons
from alignzoo.testing import toy_batch
from alignzoo.testing.world import ToyPolicy
from alignzoo.training.no_gradient import CAUSES, Step, Watch, cause, counted, step_of
from alignzoo_imitation.sft import SFT
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.reinforce import REINFORCE
from alignzoo_policy_gradient.rloo import RLOO
from toy_run import train

USUAL = {"groups": 4.0, "completions": 8.0, "rows": 8.0, "groups/tied": 0.25, "groups/identical": 0.0}
USUAL |= {"reward/mean": 0.5, "reward/std": 0.5, "grad_norm": 1.0}


def step(optimizer: Any = None, *, online: bool = True, without: tuple[str, ...] = (), **changes: float) -> Step:
    """The figures of a usual step of four groups of two, with these changed; `groups__tied` is groups/tied."""
    metrics = USUAL | {name.replace("__", "/"): float(value) for name, value in changes.items()}
    metrics = {name: value for name, value in metrics.items() if name not in without}
    return step_of(metrics, optimizer or GRPO(), online=online)


ONE_EACH: Any = {"completions": 4, "rows": 4, "without": ("groups/tied", "groups/identical")}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("no-groups", step(groups=0, completions=0, rows=0, grad_norm=0, without=("groups/tied",))),
        ("not-scored", step(reward__abstained=8, rows=0, grad_norm=0, without=("groups/tied",))),
        ("one-completion", step(grad_norm=0, **ONE_EACH)),
        ("one-scored", step(reward__abstained=4, rows=0, grad_norm=0, without=("groups/tied",))),
        ("converged", replace(step(groups__tied=1, grad_norm=0), converged=True)),
        ("constant", step(groups__tied=1, reward__std=0, grad_norm=0)),
        ("constant", step(REINFORCE(), reward__std=0, grad_norm=0, **ONE_EACH)),
        ("tied", step(groups__tied=1, grad_norm=0)),
        ("tied", step(groups__tied=1, reward__std=0, grad_norm=0, online=False)),
        ("identical", step(groups__tied=0, groups__identical=1, grad_norm=5e-7)),
        ("tied-or-identical", step(groups__tied=0.75, groups__identical=0.25, grad_norm=5e-7)),
        ("no-rows", step(rows=0, without=("grad_norm",))),
        ("stale", step(staleness__dropped=8, rows=0, without=("groups/tied", "grad_norm"))),
        ("masked", step(importance=0, grad_norm=0)),
        ("zero", step(SFT(), grad_norm=0, online=False, **ONE_EACH)),
    ],
)
def test_each_cause_by_its_figures(name: str, found: Step) -> None:
    assert found.without_gradient
    why = cause(found)
    assert why.name == name
    assert "{" not in why.message(found) and "nan" not in why.message(found)


def test_every_cause_is_tested_above_and_says_what_to_do() -> None:
    tested = test_each_cause_by_its_figures.pytestmark[0].args[1]
    assert {name for name, _ in tested} == {each.name for each in CAUSES}
    for online in (True, False):
        for name, found in tested:
            if name != "no-groups" or online:
                assert cause(replace(found, online=online)).message(found).count(". ") >= 1


def test_a_message_has_the_figures() -> None:
    told = cause(step(grad_norm=0, **ONE_EACH)).message(step(grad_norm=0, **ONE_EACH))
    assert told == (
        "each of the 4 prompts has one completion, and the algorithm compares at least 2 of a prompt. "
        "Set sampler.n=2 or more."
    )
    both = step(groups__tied=0.75, groups__identical=0.25, grad_norm=5e-7, online=False)
    assert (
        cause(both).message(both).startswith("in 75% of the 4 groups all completions have the same reward, and in 25%")
    )


@pytest.mark.parametrize(
    "found",
    [
        step(),
        step(SFT(), online=False, groups__tied=0, reward__std=0, **ONE_EACH),  # demonstrations have one label
        step(REINFORCE(), **ONE_EACH),
        step(PPO(), **ONE_EACH),
        step(PPO(), reward__std=0, groups__tied=1, grad_norm=1e-6),  # its critic learns
        step(RLOO(), groups__tied=1, grad_norm=0.01),  # the KL is in the reward
        step(GRPO(), groups__tied=1, grad_norm=0.01),  # the KL is in the loss
        step(GRPO(), groups__tied=0.9, grad_norm=1e-7),  # rewards of 1e-7 that differ
    ],
)
def test_what_is_no_such_step(found: Step) -> None:
    assert not found.without_gradient


def test_the_metric_is_1_or_0() -> None:
    assert counted(USUAL, GRPO(), online=True) == {"no_gradient": 0.0}
    assert counted(USUAL | {"grad_norm": 0.0}, GRPO(), online=True) == {"no_gradient": 1.0}
    assert counted({"rows": 0.0}, SFT(), online=False) == {"no_gradient": 1.0}


def test_groups_that_prefer_nothing() -> None:
    # five groups: tied; different; alone; of one text with two rewards; of one text, and tied
    batch = toy_batch(
        [1, 2, 1, 2, 3, 2, 2, 2, 2], group=[0, 0, 1, 1, 2, 3, 3, 4, 4], rewards=[1, 1, 1, 0, 5, 1, 0, 2, 2]
    )
    tokens = batch.tokens.clone()
    tokens[6], tokens[8] = tokens[5], tokens[7]
    assert comparisons(replace(batch, tokens=tokens)) == {"groups/tied": 0.5, "groups/identical": 0.25}
    assert comparisons(batch.select(slice(4, 5))) == comparisons(batch.select(slice(0, 0))) == {}


def watch(optimizer: Any = None) -> Watch:
    return Watch("rl", optimizer or GRPO(), online=True)


EMPTY = USUAL | {"groups/tied": 1.0, "reward/std": 0.0, "grad_norm": 0.0}


def test_the_first_is_told_and_the_third_in_a_row_and_no_more() -> None:
    seen = watch()
    told = [
        [alert.kind for alert in seen.see(each)] for each in (USUAL, EMPTY, EMPTY, USUAL, EMPTY, EMPTY, EMPTY, EMPTY)
    ]
    assert told == [[], ["no-gradient"], [], [], [], [], ["stalled"], []]
    seen.check()  # two steps had a gradient
    (alert,) = watch().see(EMPTY)
    assert alert.message.startswith("the step gave no gradient, because all 8 completions got the same reward, 0.5. ")
    assert alert.figures == {"steps": 1.0, "no_gradient": 1.0, "grad_norm": 0.0}


def test_a_run_of_nothing_else_is_an_error() -> None:
    seen = watch()
    seen.check()  # no step at all: nothing to say
    for _ in range(4):
        seen.see(EMPTY)
    with pytest.raises(
        RunError, match=r"rl: nothing was learnt.*none of its 4 steps gave a gradient.*same reward, 0\.5"
    ):
        seen.check()
    seen.see(USUAL)
    seen.check()


def test_what_the_kl_makes_of_rounding_is_nothing_learnt() -> None:
    pulled = EMPTY | {"grad_norm": 0.01}  # tied, and yet a gradient: the KL's
    seen = watch()
    seen.see(EMPTY)
    assert seen.see(pulled) == []
    with pytest.raises(RunError, match="none of its 2 steps"):
        seen.check()
    away = watch()  # a policy that starts away from its reference is pulled home: something to learn
    away.see(pulled)
    away.see(EMPTY)
    away.check()


def test_a_run_that_has_converged_is_told_so() -> None:
    seen = watch()
    seen.see(USUAL)
    (alert,) = seen.see(EMPTY | {"reward/mean": 1.0})
    assert "1, is the best so far" in alert.message and "reward_stop" in alert.message
    seen = watch()
    seen.see(USUAL)
    (alert,) = seen.see(EMPTY | {"reward/mean": 0.0})
    assert "all 8 completions got the same reward, 0." in alert.message


# --- in a run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pulling:
    """Trains on the advantage of the group; with `strength` 0 its loss has no gradient."""

    strength: float = 1.0
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, advantages=fn.group_advantages(batch))

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(-self.strength * out.logprobs * fn.token_column(batch.advantages, batch.mask))


def test_a_run_counts_them_and_saves_nothing(tmp_path: Path) -> None:
    done = train(ToyPolicy(), Pulling(), tmp_path / "good")
    assert [line["no_gradient"] for line in done["metrics"]] == [0.0, 0.0, 0.0]
    assert all(0 <= line["groups/tied"] <= 1 for line in done["metrics"]) and done["warnings"] == []
    with pytest.raises(RunError, match="toy: nothing was learnt, so no model is saved: none of its 3 steps"):
        train(ToyPolicy(), Pulling(strength=0.0), tmp_path / "empty")
    text = (tmp_path / "empty" / "warnings.jsonl").read_text()
    assert [kind in text for kind in ('"no-gradient"', '"stalled"')] == [True, True] and text.count("\n") == 2


class Silent:
    """A judge that gives no score, and says why."""

    def score(self, groups: Sequence[Group], policy: Any) -> list[tuple[Score, ...]]:
        return [(Score(None, note="the model asked is not a judge"),) * len(group.completions) for group in groups]


def test_a_reward_that_scores_nothing_is_told_with_its_own_reason(tmp_path: Path) -> None:
    told = r"none of the 12 completions has a score .* the reward notes: the model asked is not a judge\."
    with pytest.raises(RunError, match=told):
        train(ToyPolicy(), Pulling(), tmp_path / "silent", reward=Silent())
