"""Other policies beside the one that is trained: named in a recipe, loaded, followed, imitated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import ModelError, PluginError, Policy, PolicySpec, RecipeError, Terms, columns, roles
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.testing import toy_groups, toy_policy
from alignzoo.testing.optimizers.resume import ToySampler
from alignzoo.testing.stopping import resumes
from alignzoo.testing.world import ToyPolicy, toy_prompts
from alignzoo.training import loop
from alignzoo_hf.model.spec import HF
from toy_run import train

PUBLIC = Path(__file__).parent / "public_api"


@pytest.fixture(scope="module")
def zoo() -> Registry:
    registry = Registry()
    registry.load_all()
    for path in sorted(PUBLIC.glob("*.py")):
        registry.add_file(path)
    return registry


# --- in a recipe ------------------------------------------------------------------------------------------------------


def gkd(zoo: Registry, *overrides: Any) -> Any:
    return load("gkd", ["task=sort", *overrides], registry=zoo).stages[-1]


def test_a_role_without_a_model_is_told_when_the_recipe_is_read(zoo: Registry) -> None:
    with pytest.raises(RecipeError) as told:
        gkd(zoo)
    assert "optimizer.teacher is missing: GKD needs 'teacher_jsd:0.5'" in str(told.value)
    assert "optimizer.teacher=DIRECTORY" in str(told.value) and "optimizer.teacher=stage:NAME" in str(told.value)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.teacher=/models/large",
        'optimizer.teacher={model="/models/large"}',
        'optimizer.teacher={name="hf", model="/models/large"}',
        ("optimizer.teacher", HF(model="/models/large")),
        ("optimizer.teacher", {"model": "/models/large"}),
    ],
    ids=str,
)
def test_a_directory_or_a_table_becomes_a_policys_settings(zoo: Registry, override: Any) -> None:
    stage = gkd(zoo, override)
    assert stage.optimizer.teacher == HF(model="/models/large")
    assert roles.specs_of(stage.optimizer) == {"teacher": HF(model="/models/large")}


def test_the_manifest_tells_the_teacher_and_reads_it_back(zoo: Registry, tmp_path: Path) -> None:
    recipe = load("gkd", ["task=sort", 'optimizer.teacher={model="/m", temperature=0.5}'], registry=zoo)
    told = recipe.resolved["stage"][-1]["optimizer"]["teacher"]
    assert (told["name"], told["model"], told["temperature"]) == ("hf", "/m", 0.5)
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved}))
    assert load(tmp_path, registry=zoo) == recipe


def test_settings_within_a_teacher_are_checked_like_any_others(zoo: Registry) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.temprature: HF has no such field. Did you mean 'temperature'"):
        gkd(zoo, 'optimizer.teacher={model="/m", temprature=0.5}')
    with pytest.raises(RecipeError, match=r"teacher\.temperature: found 0, allowed: a number above 0"):
        gkd(zoo, 'optimizer.teacher={model="/m", temperature=0}')


def test_a_teacher_may_be_what_an_earlier_stage_has_trained(zoo: Registry) -> None:
    given = ["task=sort", "optimizer=gkd", "optimizer.teacher=stage:sft"]
    stage = load("rlhf", given, registry=zoo).stages[-1].with_outputs({"sft": "/runs/sft", "reward-model": "/runs/rm"})
    assert stage.optimizer.teacher.model == "/runs/sft"
    with pytest.raises(RecipeError, match="no earlier stage"):
        load("rlhf", ["task=sort", "optimizer=gkd", "optimizer.teacher=stage:stf"], registry=zoo)


def test_a_policy_that_cannot_hold_another_says_so(zoo: Registry) -> None:
    class Alone:
        def load(self, needs: frozenset[str]) -> Policy:
            return toy_policy()

    optimizer = zoo.get("optimizer", "gkd")(teacher=HF(model="/m"))
    with pytest.raises(ModelError, match=r"the policy Alone cannot have other policies .* GKD names 'teacher'"):
        roles.load(Alone(), optimizer)  # type: ignore[arg-type]


# --- what moves -------------------------------------------------------------------------------------------------------


def test_a_role_takes_its_share_of_the_policy_exactly() -> None:
    policy = toy_policy(drift=0.5, roles=["teacher"])
    first = {role: dict(weights) for role, weights in policy.roles.items()}
    policy.follow("ref", 0.25)
    for name, weight in policy.weights.items():
        expected = 0.75 * first["ref"][name] + 0.25 * weight.detach()
        torch.testing.assert_close(policy.roles["ref"][name], expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(policy.roles["teacher"][name], first["teacher"][name])
    policy.follow("teacher", 1.0)
    policy.drift(0.5, seed=3)
    assert not torch.equal(policy.roles["teacher"]["head"], policy.weights["head"])


@pytest.mark.parametrize("told", [{"ref": 1.5}, {"ref": -0.1}, {"ref": True}, {"ref": "all"}, 0.5, ["ref"]])
def test_what_moves_by_no_share_is_refused(told: Any) -> None:
    @dataclass(frozen=True)
    class Wrong(Still):
        def follow(self, step: int) -> Any:
            return told

    with pytest.raises(PluginError, match=r"Wrong\.follow\(1\).* expected a"):
        roles.following(Wrong(), 1)


@dataclass(frozen=True)
class Still:
    """Learns as DPO without β does, and moves nothing."""

    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})

    def prepare(self, batch: Any) -> Any:
        return fn.best_and_worst(batch)

    def loss(self, batch: Any, out: Any) -> Any:
        away = fn.log_ratio(out.logprobs, batch.ref_logprobs, batch.mask).sum(1)
        return Terms(-torch.nn.functional.logsigmoid(away[0::2] - away[1::2]).repeat_interleave(2))


@dataclass(frozen=True)
class Moves(Still):
    """Its reference is the policy of two steps ago at most."""

    def follow(self, step: int) -> Mapping[str, float]:
        return {"ref": 1.0} if step == 2 else {"ref": 0.0}


def test_the_runner_moves_what_the_optimizer_names(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watched(ToyPolicy):
        def follow(self, role: str, mix: float) -> None:
            super().follow(role, mix)
            seen.append(mix == 1.0 and all(torch.equal(self.roles[role][n], w) for n, w in self.weights.items()))

    policy = Watched()
    lines = train(policy, Moves(), tmp_path / "run", kl_every=1)["metrics"]
    assert seen == [True]
    # the KL is to the reference as it is: 0 at first and right after the copy
    assert [round(line["kl"], 6) == 0 for line in lines] == [True, False, True]
    assert roles.moving(Moves(), 3) == {"ref"} and roles.moving(Moves(), 2) == set() == roles.moving(Still(), 9)


def test_a_run_whose_reference_moves_resumes_to_the_byte(zoo: Registry) -> None:
    for optimizer in (Moves(), zoo.get("optimizer", "tr-dpo")(alpha=0.3), zoo.get("optimizer", "tr-dpo")(tau=2)):
        resumes("", optimizer, ToySampler(), [replace(p, completions=(), labels=()) for p in toy_prompts()])


@dataclass(frozen=True)
class GivenGroups:
    """The same two answers of the data to every prompt."""

    online: ClassVar[bool] = False
    brings_scores: ClassVar[bool] = True

    def sample(self, prompts: Sequence[Any], policy: Policy, *, seeds: Sequence[int]) -> list[Any]:
        groups = toy_groups(4, sizes=(2,) * 6)
        return [groups[int(prompt.messages.split()[-1])] for prompt in prompts]


def test_a_reference_that_moves_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(loop, "remember", lambda *given, **more: asked.append("remembered") or loop.Passes)
    moved = train(toy_policy(), Moves(), tmp_path / "moves", sampler=GivenGroups(), prompts=6)
    assert not asked
    monkeypatch.undo()
    still = train(toy_policy(), Still(), tmp_path / "still", sampler=GivenGroups(), prompts=6)
    first, second = ([line["loss"] for line in each["metrics"]] for each in (moved, still))
    assert first[:2] == second[:2] and first[2] != second[2]
    assert first[2] == pytest.approx(0.6931472)  # the policy is its own reference again: ln 2


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_toy_policy_answers_every_column() -> None:
    policy, batch = toy_policy(drift=0.3, roles=["teacher"]), collate(toy_groups())
    names = [
        *("logprobs", "entropy", "collision", "values", "scores", "ref_kl", "teacher_kl", "teacher_reverse_kl"),
        *("teacher_jsd", "teacher_jsd:0.5", "teacher_jsd:0", "teacher_top_kl:13", "teacher_top_kl:2"),
    ]
    out = policy.forward(batch, frozenset(names)).columns()
    assert out.keys() == set(names)
    assert torch.equal(out["teacher_jsd"], out["teacher_jsd:0.5"])
    torch.testing.assert_close(out["teacher_jsd:0"], out["teacher_kl"])
    torch.testing.assert_close(out["teacher_top_kl:13"], out["teacher_kl"], rtol=1e-5, atol=1e-6)
    assert (out["teacher_top_kl:2"] <= out["teacher_kl"] + 1e-6).all()
    for name in names:
        if columns.column(name).answer.per == "token" and name != "values":
            assert not out[name][~batch.mask].any()
    with policy.answering("teacher"):
        assert not policy.forward(batch, frozenset({"teacher_kl"}))["teacher_kl"].any()
        other = policy.forward(batch, frozenset({"logprobs"})).logprobs
    assert other is not None and not torch.equal(other, out["logprobs"])


# --- learning, by plugins of public names alone -----------------------------------------------------------------------


def distance(policy: ToyPolicy) -> float:
    """The mean JSD to the teacher, on what nobody has generated."""
    batch = collate(toy_groups(7))
    with torch.no_grad():
        column = policy.forward(batch, frozenset({"teacher_jsd"}))["teacher_jsd"]
    return float(fn.masked_mean(column, batch.mask))


@pytest.mark.parametrize(
    ("name", "settings", "left"),
    [
        ("on-policy-distillation", {}, 0.8),
        ("gkd", {}, 0.6),
        ("gkd", {"beta": 0.0}, 0.6),
        ("gkd", {"beta": 1.0}, 0.6),
        ("gkd", {"beta": 0.1, "epochs": 2}, 0.6),
    ],
)
def test_distillation_comes_nearer_to_its_teacher(
    zoo: Registry, name: str, settings: Mapping[str, Any], left: float, tmp_path: Path
) -> None:
    policy = toy_policy(roles=["teacher"])
    before = distance(policy)
    lines = train(policy, zoo.get("optimizer", name)(**settings), tmp_path / "run", steps=25, lr=0.03)["metrics"]
    assert distance(policy) < left * before
    assert all("entropy" in line and "kl" in line for line in lines)


def test_tr_dpo_goes_further_than_dpo_from_its_start(zoo: Registry, tmp_path: Path) -> None:
    """With the reference at its heels nothing holds it back, and its own rewards rise as they do for DPO."""
    away = {}
    for name, settings in {
        "dpo": {"beta": 2.0},
        "soft": {"beta": 2.0, "alpha": 0.5},
        "hard": {"beta": 2.0, "alpha": 1.0, "tau": 2},
    }.items():
        optimizer = zoo.get("optimizer", "dpo" if name == "dpo" else "tr-dpo")(**settings)
        policy = toy_policy()
        lines = train(policy, optimizer, tmp_path / name, steps=30, lr=0.02)["metrics"]
        start = toy_policy()
        moved = [policy.weights[n].detach() - start.weights[n].detach() for n in ("embedding", "mixing", "head")]
        away[name] = float(torch.cat([each.flatten() for each in moved]).norm())
        rewards = [line["reward/mean"] for line in lines]
        assert sum(rewards[-5:]) > sum(rewards[:5])
    assert away["soft"] > away["dpo"] and away["hard"] > away["dpo"]


def test_xpo_learns_and_its_bonus_goes_where_the_reference_does_not(zoo: Registry, tmp_path: Path) -> None:
    sampler = zoo.get("sampler", "and-reference")()
    likely = {}
    for alpha in (0.0, 0.03):
        policy = toy_policy()
        optimizer = zoo.get("optimizer", "xpo")(beta=0.5, alpha=alpha)
        lines = train(policy, optimizer, tmp_path / str(alpha), steps=30, lr=0.02, sampler=sampler)["metrics"]
        rewards = [line["reward/mean"] for line in lines]
        assert sum(rewards[-5:]) > sum(rewards[:5])
        with policy.answering("ref"):
            groups = policy.generate(toy_prompts(), 8, seeds=fn.seeds(len(toy_prompts()), 1))
        scored = [dataclasses.replace(g, scores=toy_scores(len(g.completions)), extra={}) for g in groups]
        batch = collate(scored)
        with torch.no_grad():
            out = policy.forward(batch, frozenset({"logprobs"})).logprobs
        assert out is not None
        likely[alpha] = float(out.sum() / len(batch))
    assert likely[0.03] < likely[0.0]


def toy_scores(n: int) -> Any:
    from alignzoo import Score

    return (Score(0.0),) * n


def test_the_reference_of_a_pair_is_the_reference(zoo: Registry) -> None:
    policy = toy_policy(drift=2.0)
    sampler = zoo.get("sampler", "and-reference")()
    found = sampler.sample(toy_prompts(), policy, seeds=fn.seeds(len(toy_prompts()), 3))
    fresh = sampler.sample(toy_prompts(), toy_policy(), seeds=fn.seeds(len(toy_prompts()), 3))
    assert [g.completions[1] for g in found] == [g.completions[1] for g in fresh]
    assert [g.completions[0] for g in found] != [g.completions[0] for g in fresh]
    assert all(g.completions[0].logprobs and g.completions[1].logprobs is None for g in found)


def test_a_spec_is_a_policys_settings() -> None:
    assert isinstance(HF(), PolicySpec)
