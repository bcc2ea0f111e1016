"""Recipes: layers, overrides, what comes out, and what an error says."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import Field

import alignzoo
from alignzoo.data import Data
from alignzoo.errors import AlignzooError, PluginError, RecipeError
from alignzoo.recipe import load
from alignzoo.recipe.toml_lines import key_lines
from alignzoo.registry import Registry
from alignzoo.rewards import WeightedReward
from alignzoo.schedule import Evaluation, Schedule

# --- parts to put into recipes --------------------------------------------------------------------------------


class Shape(enum.Enum):
    FLAT = "flat"
    ROUND = "round"


@dataclass(frozen=True)
class Lora:
    rank: Annotated[int, Ge(1)] = 8
    targets: tuple[str, ...] = ("q", "v")


@dataclass(frozen=True)
class Tiny:
    """A policy with a field of every sort."""

    model: Any = ""
    max_new_tokens: Annotated[int, Ge(1)] = 128
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    dtype: Literal["fp32", "bf16"] = "fp32"
    lora: Lora | None = None
    cache: Path | None = None
    stop: frozenset[str] = frozenset()
    shape: Shape = Shape.FLAT
    betas: tuple[float, float] = (0.9, 0.999)
    chat: bool = False
    columns: dict[str, str] = field(default_factory=dict)

    def load(self, needs: frozenset[str]) -> Any: ...


@dataclass(frozen=True)
class Other:
    """A second policy, with fewer fields."""

    model: str = ""
    temperature: float = 1.0

    def load(self, needs: frozenset[str]) -> Any: ...


@dataclass(frozen=True)
class PPO:
    """It learns from what the policy generates, and says so."""

    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    kl: float = 0.05
    target: float | None = None
    epochs: int = 4
    online: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})

    def __post_init__(self) -> None:
        if self.target is not None and self.target < self.kl:
            raise ValueError("target must not be below kl")

    def prepare(self, batch: Any) -> Any: ...
    def loss(self, batch: Any, out: Any) -> Any: ...


@dataclass(frozen=True)
class DPO:
    """Offline."""

    beta: float = 0.1
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})

    def prepare(self, batch: Any) -> Any: ...
    def loss(self, batch: Any, out: Any) -> Any: ...


@dataclass(frozen=True)
class FromData:
    online: ClassVar[bool] = False

    def sample(self, prompts: Any, policy: Any, *, seeds: Any) -> Any: ...


@dataclass(frozen=True)
class FromPolicy:
    n: Annotated[int, Ge(1)] = 1
    online: ClassVar[bool] = True

    def sample(self, prompts: Any, policy: Any, *, seeds: Any) -> Any: ...


@dataclass(frozen=True)
class Labels:
    def score(self, groups: Any, policy: Any) -> Any: ...


@dataclass(frozen=True)
class Length:
    free: int = 0

    def score(self, groups: Any, policy: Any) -> Any: ...


@dataclass(frozen=True)
class Judge:
    model: str

    def score(self, groups: Any, policy: Any) -> Any: ...


@dataclass(frozen=True)
class Shop:
    length_bias: float = 0.0
    policy: ClassVar[str] = "sft"
    base: ClassVar[str] = "base"
    reward: ClassVar[Any] = ({"name": "judge", "model": "gold"}, {"name": "length", "weight": -0.5})

    def data(self, kind: str, split: str) -> Any: ...
    def gold(self, prompt: Any, completion: Any) -> Any: ...


@dataclass(frozen=True)
class Sort(Shop):
    reward: ClassVar[Any] = ({"name": "length"},)


READY = Sort()


class Plugin:
    """Registers all of it."""

    @alignzoo.hookimpl
    def alignzoo_register(self, zoo: Any) -> None:
        for name, target in {"tiny": Tiny, "other": Other}.items():
            zoo.policy(name, target)
        for name, target in {"ppo": PPO, "dpo": DPO}.items():
            zoo.optimizer(name, target)
        for name, target in {"dataset": FromData, "policy": FromPolicy}.items():
            zoo.sampler(name, target)
        for name, target in {"labels": Labels, "length": Length, "judge": Judge}.items():
            zoo.reward(name, target)
        for name, target in {"shop": Shop, "sort": Sort, "ready": READY}.items():
            zoo.task(name, target)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The parts above, and the folder of the test's recipes."""
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "")
    registry = Registry(recipes=tmp_path)
    registry.add(Plugin())
    return registry


RLHF = """\
# Two stages.
description = "SFT, then PPO"
task = { name = "shop", length_bias = 0.15 }
policy = { name = "tiny", max_new_tokens = 40 }

[schedule]
steps = 10
lr = 1e-4

[tasks.sort.optimizer]
kl = 0.01
[tasks.sort.policy]
model = "sorter"
top_p = 0.5
[tasks.sort.stage.sft.schedule]
steps = 3

[[stage]]
name = "sft"
data = { kind = "demonstrations" }
reward = { name = "labels" }
optimizer = { name = "dpo" }

[[stage]]
name = "rl"
policy = { model = "stage:sft" }
sampler = { name = "policy", n = 4 }
reward = [
  { name = "judge", model = "stage:sft" },
  { name = "length", weight = -0.1, free = 3 },
]
[stage.optimizer]
name = "ppo"
clip = 0.3
kl = 0.2
[stage.schedule]
steps = 20
"""


@pytest.fixture
def rlhf(tmp_path: Path) -> Path:
    path = tmp_path / "rlhf.toml"
    path.write_text(RLHF)
    return path


# --- what comes out -------------------------------------------------------------------------------------------


def test_a_recipe_becomes_built_parts(zoo: Registry, rlhf: Path) -> None:
    recipe = load(rlhf, registry=zoo)
    assert (recipe.name, recipe.description) == ("rlhf", "SFT, then PPO")
    sft, rl = recipe.stages
    assert (sft.name, sft.kind, sft.data, sft.seed) == ("sft", "demonstrations", None, 0)
    assert sft.task == Shop(length_bias=0.15)
    assert sft.policy == Tiny(max_new_tokens=40)
    assert sft.sampler == FromData()
    assert sft.rewards == (WeightedReward("labels", Labels(), 1.0),)
    assert sft.optimizer == DPO()
    assert sft.schedule == Schedule(steps=10, lr=1e-4)
    assert sft.evaluate == Evaluation()
    assert rl.kind == "prompts"
    assert rl.policy == Tiny(model="stage:sft", max_new_tokens=40)
    assert rl.sampler == FromPolicy(n=4)
    assert rl.rewards == (
        WeightedReward("judge", Judge("stage:sft"), 1.0),
        WeightedReward("length", Length(free=3), -0.1),
    )
    assert rl.optimizer == PPO(clip=0.3, kl=0.2)
    assert rl.schedule == Schedule(steps=20, lr=1e-4)


def test_references_are_filled_with_outputs(zoo: Registry, rlhf: Path) -> None:
    stage = load(rlhf, registry=zoo).stages[1].with_outputs({"sft": "/runs/1/sft"})
    assert stage.policy == Tiny(model="/runs/1/sft", max_new_tokens=40)
    assert stage.rewards[0] == WeightedReward("judge", Judge("/runs/1/sft"), 1.0)
    assert stage.optimizer == PPO(clip=0.3, kl=0.2)


def test_what_is_resolved_reads_back_as_an_equal_recipe(zoo: Registry, rlhf: Path, tmp_path: Path) -> None:
    changes = {
        "policy.lora": {"rank": 4, "targets": ["k"]},
        "policy.cache": "some/where",
        "policy.stop": ["b", "a"],
        "policy.shape": "round",
        "policy.columns": {"prompt": "question"},
        "rl.data.path": "rows.jsonl",
        "rl.data.heldout": 0.2,
        "evaluate.best_of": 4,
        "seed": 3,
    }
    recipe = load(rlhf, changes, registry=zoo)
    assert recipe.stages[0].policy == Tiny(
        max_new_tokens=40,
        lora=Lora(4, ("k",)),
        cache=Path("some/where"),
        stop=frozenset("ab"),
        shape=Shape.ROUND,
        columns={"prompt": "question"},
    )
    assert recipe.stages[1].data == Data("rows.jsonl", heldout=0.2)
    assert recipe.resolved["stage"][1]["schedule"]["reward_stop"] is None  # every default is filled in
    assert recipe.resolved["stage"][1]["sampler"] == {"name": "policy", "n": 4}
    manifest = tmp_path / "run" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"versions": {}, "recipe": recipe.resolved}))
    for again in (load(manifest, registry=zoo), load(str(manifest.parent), registry=zoo)):
        assert again == recipe
        assert again.resolved == recipe.resolved
    assert load(manifest, ["seed=4"], registry=zoo) != recipe


def test_the_tasks_reward_holds_where_the_stage_has_none(zoo: Registry, tmp_path: Path) -> None:
    recipe = write(tmp_path, task="shop", sampler="policy", optimizer="ppo", policy="tiny")
    [stage] = load(recipe, registry=zoo).stages
    assert stage.rewards == (WeightedReward("judge", Judge("gold")), WeightedReward("length", Length(), -0.5))
    [stage] = load(recipe, ["reward.1.weight=2", "reward.0.model=other"], registry=zoo).stages
    assert stage.rewards == (WeightedReward("judge", Judge("other")), WeightedReward("length", Length(), 2.0))
    # The user's own data are not the task's, and its reward does not speak of them.
    with pytest.raises(RecipeError, match=r"line 1: rl has no reward.*Known: judge, length\."):
        load(recipe, ["data.path=rows.jsonl"], registry=zoo)
    [stage] = load(recipe, ["data.path=rows.jsonl", "reward.model=other", "reward.name=judge"], registry=zoo).stages
    assert stage.rewards == (WeightedReward("judge", Judge("other")),)
    [stage] = load(recipe, ["data=rows.jsonl", "sampler=dataset"], registry=zoo).stages
    assert stage.rewards == (WeightedReward("labels", Labels()),)
    assert (stage.data, stage.task) == (Data("rows.jsonl"), Shop())


def test_two_rewards_of_one_name_are_told_apart(zoo: Registry, tmp_path: Path) -> None:
    reward = [{"name": "length"}, {"name": "length", "free": 2}]
    recipe = write(tmp_path, task="shop", sampler="policy", optimizer="ppo", policy="tiny")
    [stage] = load(recipe, {"reward": reward}, registry=zoo).stages
    assert [each.name for each in stage.rewards] == ["length", "length#2"]


def test_by_name_path_folder_or_optimizer(zoo: Registry, rlhf: Path, tmp_path: Path) -> None:
    (tmp_path / "_online.toml").write_text(
        '[[stage]]\nname = "rl"\ntask = "sort"\npolicy = "tiny"\nsampler = "policy"\noptimizer = "ANY"\n'
    )
    (tmp_path / "_offline.toml").write_text(
        'task = "shop"\npolicy = "tiny"\noptimizer = { name = "ANY", gone = 1 }\n[[stage]]\nname = "learn"\n'
    )
    zoo = Registry(recipes=tmp_path)
    zoo.add(Plugin())
    assert load("rlhf", registry=zoo) == load(str(rlhf), registry=zoo)
    online = load("ppo", ["optimizer.clip=0.5"], registry=zoo)
    assert online.name == "ppo"
    assert [(each.name, each.optimizer) for each in online.stages] == [("rl", PPO(clip=0.5))]
    offline = load("dpo", registry=zoo)
    assert [(each.name, each.optimizer) for each in offline.stages] == [("learn", DPO())]
    assert (online.description, offline.description) == (
        "It learns from what the policy generates, and says so.",
        "Offline.",
    )
    with pytest.raises(
        RecipeError, match=r"no recipe or optimizer 'rlfh'\. Did you mean 'rlhf'\? Known: dpo, ppo, rlhf"
    ):
        load("rlfh", registry=zoo)
    with pytest.raises(RecipeError, match=r"'judge' is a reward\."):
        load("judge", registry=zoo)
    with pytest.raises(RecipeError, match=r"gone\.toml: cannot be read: No such file"):
        load(tmp_path / "gone.toml", registry=zoo)


def write(folder: Path, **parts: Any) -> Path:
    """A recipe of one stage, `rl`, on one line each."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in parts.items()]
    path = folder / "one.toml"
    path.write_text("\n".join(["[[stage]]", 'name = "rl"', *lines, ""]))
    return path


# --- layers and overrides -------------------------------------------------------------------------------------


def test_what_a_task_changes(zoo: Registry, rlhf: Path) -> None:
    sft, rl = load(rlhf, ["task=sort"], registry=zoo).stages
    assert sft.task == rl.task == Sort()  # another task starts afresh: length_bias was the shop's
    assert sft.policy == Tiny(model="sorter", max_new_tokens=40, top_p=0.5)
    assert rl.policy == Tiny(model="stage:sft", max_new_tokens=40, top_p=0.5)  # the pipeline holds
    assert (sft.optimizer, rl.optimizer) == (DPO(), PPO(clip=0.3, kl=0.01))  # the last stage's, over its own table
    assert (sft.schedule.steps, rl.schedule.steps) == (3, 20)
    _, rl = load(rlhf, ["task=sort", "optimizer.kl=0.5", "policy.top_p=1"], registry=zoo).stages
    assert rl.optimizer == PPO(clip=0.3, kl=0.5)
    assert rl.policy == Tiny(model="stage:sft", max_new_tokens=40, top_p=1.0)


ROUTES = [
    # an override, and what it changes in (sft, rl)
    ("seed=7", lambda s: s.seed, (7, 7)),
    ("rl.seed=7", lambda s: s.seed, (0, 7)),
    ("task=sort", lambda s: type(s.task), (Sort, Sort)),
    ("sft.task=sort", lambda s: type(s.task), (Sort, Shop)),
    ("task.length_bias=0.5", lambda s: s.task.length_bias, (0.5, 0.5)),
    ("policy.top_p=0.5", lambda s: s.policy.top_p, (0.5, 0.5)),
    ("rl.policy.top_p=0.5", lambda s: s.policy.top_p, (1.0, 0.5)),
    ("policy.model=mine", lambda s: s.policy.model, ("mine", "stage:sft")),
    ("rl.policy.model=mine", lambda s: s.policy.model, ("", "mine")),
    ("policy=other", lambda s: s.policy, (Other(), Other(model="stage:sft"))),
    ("policy={name='other', temperature=2}", lambda s: s.policy.temperature, (2.0, 2.0)),
    ("data.path=a b.jsonl", lambda s: s.data, (Data("a b.jsonl"), Data("a b.jsonl"))),
    ("data.kind=comparisons", lambda s: s.kind, ("comparisons", "comparisons")),
    ("data={path='x', columns={prompt='q'}}", lambda s: s.data.columns, ({"prompt": "q"}, {"prompt": "q"})),
    ("rl.data=x=y.jsonl", lambda s: s.data, (None, Data("x=y.jsonl"))),
    ("optimizer.epochs=9", lambda s: s.optimizer.epochs, (1, 9)),
    ("sft.optimizer.epochs=9", lambda s: s.optimizer.epochs, (9, 4)),
    ("optimizer=dpo", lambda s: s.optimizer, (DPO(), DPO())),
    ("schedule.steps=5", lambda s: s.schedule.steps, (10, 5)),
    ("sft.schedule.lr=1e-2", lambda s: s.schedule.lr, (0.01, 1e-4)),
    ("schedule.warmup=3", lambda s: s.schedule.warmup, (0.0, 3.0)),
    ("sampler.n=2", lambda s: s.sampler, (FromData(), FromPolicy(2))),
    ("evaluate.prompts=5", lambda s: s.evaluate.prompts, ("auto", 5)),
    ("reward=length", lambda s: [r.source for r in s.rewards], ([Labels()], [Length()])),
    ("reward=[{name='length', weight=2}]", lambda s: [r.weight for r in s.rewards], ([1.0], [2.0])),
    ("reward.1.weight=2", lambda s: [r.weight for r in s.rewards], ([1.0], [1.0, 2.0])),
    ("reward.0.model=m", lambda s: getattr(s.rewards[0].source, "model", None), (None, "m")),
    ("reward.0=length", lambda s: [r.name for r in s.rewards], (["labels"], ["length", "length#2"])),
    ("sft.reward.weight=2", lambda s: [r.weight for r in s.rewards], ([2.0], [1.0, -0.1])),
    ("policy.betas=[0.5, 1]", lambda s: s.policy.betas, ((0.5, 1.0), (0.5, 1.0))),
    ("policy.chat=true", lambda s: s.policy.chat, (True, True)),
    ("policy.columns={a='b'}", lambda s: s.policy.columns, ({"a": "b"}, {"a": "b"})),
    ("policy.columns.a=b", lambda s: s.policy.columns, ({"a": "b"}, {"a": "b"})),
    ("policy.lora.rank=2", lambda s: s.policy.lora, (Lora(2), Lora(2))),
    ("sft.policy.model='1e-4'", lambda s: s.policy.model, ("1e-4", "stage:sft")),
    ("sft.policy.model=2024-05-01", lambda s: s.policy.model, ("2024-05-01", "stage:sft")),
    ("sft.policy.model=", lambda s: s.policy.model, ("", "stage:sft")),
]


@pytest.mark.parametrize(("override", "part", "expected"), ROUTES, ids=[each[0] for each in ROUTES])
def test_where_an_override_goes(override: str, part: Any, expected: tuple[Any, Any], zoo: Registry, rlhf: Path) -> None:
    sft, rl = load(rlhf, [override], registry=zoo).stages
    assert (part(sft), part(rl)) == expected
    assert type(part(rl)) is type(expected[1])


def test_overrides_are_one_layer_whatever_their_order(zoo: Registry, rlhf: Path) -> None:
    for overrides in (["optimizer=dpo", "optimizer.beta=0.5"], ["optimizer.beta=0.5", "optimizer=dpo"]):
        assert load(rlhf, overrides, registry=zoo).stages[1].optimizer == DPO(beta=0.5)
    assert load(rlhf, ["optimizer.kl=1", "optimizer.kl=2"], registry=zoo).stages[1].optimizer == PPO(clip=0.3, kl=2.0)
    _, rl = load(rlhf, ["rl.policy.top_p=0.5", "policy.top_p=0.9"], registry=zoo).stages
    assert rl.policy.top_p == 0.5  # a stage's own override is the more precise
    _, rl = load(rlhf, ["reward=length", "reward.free=2"], registry=zoo).stages
    assert rl.rewards == (WeightedReward("length", Length(2)),)


def test_live_objects_in_python(zoo: Registry, rlhf: Path, tmp_path: Path) -> None:
    model, rows = object(), [{"prompt": "a"}]
    overrides = {
        "sft.policy.model": model,
        "rl": {"policy": Other("mine"), "reward": Length(7), "task": READY},
        "optimizer": PPO(clip=0.9),
        "data": rows,
        "schedule": Schedule(steps=1),
    }
    recipe = load(rlhf, overrides, registry=zoo)
    sft, rl = recipe.stages
    assert sft.policy.model is model
    assert sft.data == rl.data
    assert sft.data.rows.rows is rows
    assert rl.policy == Other("mine")
    assert rl.rewards == (WeightedReward("Length", Length(7), 1.0),)
    assert rl.task is READY
    assert rl.optimizer == PPO(clip=0.9)
    assert rl.schedule == Schedule(steps=1)
    shown = recipe.resolved["stage"]
    assert shown[0]["policy"]["model"] == "<object object>"
    assert shown[1]["policy"] == "<Other object>"
    assert shown[1]["reward"] == ["<Length object>"]
    assert shown[1]["data"]["rows"] == "<Rows object>"
    assert shown[1]["schedule"]["steps"] == 1
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"recipe": recipe.resolved}))
    with pytest.raises(RecipeError, match=r"sft\.data\.rows was a live object, <Rows object>, .* give it again"):
        load(manifest, registry=zoo)
    with pytest.raises(RecipeError, match=r"sft\.policy\.model was a live object, <object object>"):
        load(manifest, {"data": rows}, registry=zoo)
    assert load(manifest, overrides, registry=zoo) == recipe


# --- errors ---------------------------------------------------------------------------------------------------

WRONG = {
    # (what is replaced in RLHF, by what), the line, the path, and what else the error says
    "an unknown field": (
        ("clip = 0.3", "clp = 0.3"),
        34,
        "rl.optimizer.clp",
        ["PPO has no such field", "'clip'", "kl"],
    ),
    "below its range": (("clip = 0.3", "clip = -0.1"), 34, "rl.optimizer.clip", ["found -0.1", "above 0 and below 1"]),
    "above its range": (("clip = 0.3", "clip = 1"), 34, "rl.optimizer.clip", ["found 1", "above 0 and below 1"]),
    "a string for a number": (("kl = 0.2", 'kl = "1e-4"'), 35, "rl.optimizer.kl", ['"1e-4" (a string)', "a number"]),
    "true for a number": (("kl = 0.2", "kl = true"), 35, "rl.optimizer.kl", ["found true", "a number"]),
    "true for an integer": (("n = 4", "n = true"), 27, "rl.sampler.n", ["found true", "an integer at least 1"]),
    "a fraction for an integer": (("n = 4", "n = 1.5"), 27, "rl.sampler.n", ["found 1.5", "an integer"]),
    "a table for a number": (("kl = 0.2", "kl = {a = 1}"), 35, "rl.optimizer.kl", ["found a table", "a number"]),
    "a number for a table": (
        ("lr = 1e-4", "lr = 1e-4\nmax_grad_norm = [1]"),
        9,
        "sft.schedule.max_grad_norm",
        ["a list"],
    ),
    "no choice": (("max_new", 'dtype = "fp16", max_new'), 4, "sft.policy.dtype", ['"fp16"', "one of 'fp32', 'bf16'"]),
    "no such enum": (("max_new", 'shape = "oval", max_new'), 4, "sft.policy.shape", ["one of 'flat', 'round'"]),
    "one number too few": (
        ("max_new", "betas = [1], max_new"),
        4,
        "sft.policy.betas",
        ["a list of 2: a number, a number"],
    ),
    "a nested field": (("max_new", "lora = {rank = 0}, max_new"), 4, "sft.policy.lora.rank", ["found 0"]),
    "an unknown nested field": (
        ("max_new", "lora = {rang = 1}, max_new"),
        4,
        "sft.policy.lora.rang",
        ["no such field"],
    ),
    "what a part itself refuses": (("clip = 0.3", "target = 0.1"), 34, "rl.optimizer.target", ["must not be below kl"]),
    "a missing field": (('{ name = "judge", model = "stage:sft" }', '{ name = "judge" }'), 29, "rl.reward.0.model", []),
    "a reward's field": (("free = 3", "free = 'x'"), 30, "rl.reward.1.free", ['"x" (a string)', "an integer"]),
    "a reward's weight": (("weight = -0.1", "weight = 'x'"), 30, "rl.reward.1.weight", ["a number"]),
    "no rewards": (('reward = { name = "labels" }', "reward = []"), 21, "sft.reward", ["an empty list"]),
    "a reward that is none": (('reward = { name = "labels" }', "reward = 3"), 21, "sft.reward", ["found 3"]),
    "an unknown part": (('"ppo"', '"pqo"'), 33, "rl.optimizer.name", ["no optimizer 'pqo'", "'ppo'"]),
    "a part of another kind": (('"ppo"', '"judge"'), 33, "rl.optimizer.name", ["'judge' is a reward"]),
    "a part without a name": (('name = "ppo"', ""), 32, "rl.optimizer", ["has no name", "Known: dpo, ppo"]),
    "a part that is a number": (('optimizer = { name = "dpo" }', "optimizer = 3"), 22, "sft.optimizer", ["found 3"]),
    "a missing part": (('optimizer = { name = "dpo" }', ""), 18, "sft has no optimizer", ["Known: dpo, ppo"]),
    "a field of a ready object": (('"shop"', '"ready"'), 3, "sft.task.length_bias", ["ready object"]),
    "an unknown stage": (('{ model = "stage:sft" }', '{ model = "stage:sff" }'), 26, "rl.policy.model", ["'sft'"]),
    "a later stage": (("max_new", 'model = "stage:rl", max_new'), 4, "sft.policy.model", ["no earlier stage"]),
    "a reward of no stage": (
        ('"judge", model = "stage:sft"', '"judge", model = "stage:x"'),
        29,
        "rl.reward.0.model",
        [],
    ),
    "two stages of one name": (('name = "rl"', 'name = "sft"'), 25, "'sft'", ["second stage", "line 19"]),
    "a stage without a name": (('name = "rl"', ""), 24, "this stage has no name", []),
    "a stage called like a part": (('name = "rl"', 'name = "policy"'), 25, "stage.name", ["none of task"]),
    "a stage that is a number": (('name = "rl"', "name = 3"), 25, "stage.name", ["found 3"]),
    "an unknown key": (("description", "descripton"), 2, "'descripton'", ["no key of a recipe", "'description'"]),
    "a description that is none": (('"SFT, then PPO"', "3"), 2, "description", ["found 3", "a string"]),
    "an unknown key of a stage": (("sampler =", "samplr ="), 27, "'samplr'", ["no key of a stage", "'sampler'"]),
    "a seed that is none": (("# Two stages.", "seed = -1"), 1, "sft.seed", ["found -1", "an integer at least 0"]),
    "a kind that is none": (('"demonstrations"', '"demos"'), 20, "sft.data.kind", ["'demonstrations'"]),
    "data without a path": (("{ kind =", "{ limit = 1, kind ="), 20, "sft.data", ["path is missing"]),
    "data that are a number": (('{ kind = "demonstrations" }', "3"), 20, "sft.data", ["a table or a path"]),
    "a schedule that is a number": (
        ("[schedule]\nsteps = 10\nlr = 1e-4", "schedule = 3"),
        6,
        "sft.schedule",
        ["a table"],
    ),
    "a misspelt task": (("[tasks.sort.optimizer]", "[tasks.sotr.optimizer]"), 10, "tasks.sotr", ["'sort'"]),
    "a task's unknown part": (("[tasks.sort.policy]", "[tasks.sort.polcy]"), 12, "'polcy'", ["tasks.sort", "'policy'"]),
    "a task's unknown stage": (("stage.sft.schedule", "stage.sff.schedule"), 15, "tasks.sort.stage.sff", ["'sft'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_says_where_and_what(case: str, zoo: Registry, rlhf: Path) -> None:
    (old, new), line, path, fragments = WRONG[case]
    assert RLHF.count(old) >= 1
    rlhf.write_text(RLHF.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        load(rlhf, registry=zoo)
    message = str(caught.value)
    assert message.startswith(f"{rlhf}, line {line}: ")
    for fragment in [path, *fragments]:
        assert fragment in message


SYNTAX = {
    "an unclosed table": ("a = 1\nb = { c = 1\n", "line 2, column", "    b = { c = 1"),
    "no value": ("a = 1\n\nb =\n", "line 3, column 4", "    b ="),
    "a value without quotes": ("a = shop\n", "line 1, column 5", "    a = shop\n        ^"),
    "twice the same": ("a = 1\na = 2\n", "line 2", "overwrite"),
    "an unclosed string": ('a = """x\n', "line 1, column 9", 'a = """x'),
}


@pytest.mark.parametrize("case", SYNTAX)
def test_a_syntax_error_shows_the_line(case: str, zoo: Registry, tmp_path: Path) -> None:
    text, place, shown = SYNTAX[case]
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(path, registry=zoo)
    assert str(caught.value).startswith(f"{path}, {place}")
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no stage"),
        ("stage = []\n", "there is no stage"),
        ("[stage]\nname = 'rl'\n", r"line 1: stage: found a table, allowed: tables, each under \[\[stage\]\]"),
        ("stage = 3\n", "line 1: stage: found 3"),
        ("tasks = 3\n[[stage]]\nname = 'rl'\n", "line 1: tasks: found 3"),
        ("[tasks]\nsort = 3\n[[stage]]\nname = 'rl'\n", r"line 2: tasks\.sort: found 3, allowed: a table"),
        ("[[stage]]\nname = 'rl'\npolicy = 'tiny'\n", r"line 1: rl has no data: give data\.path=\.\.\. or task="),
    ],
)
def test_a_recipe_that_is_none(text: str, message: str, zoo: Registry, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load(path, registry=zoo)


def test_files_that_are_no_recipes(zoo: Registry, tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes("description = 'für'".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.toml: not a text file in UTF-8"):
        load(tmp_path / "latin.toml", registry=zoo)
    for text in ("{}", "[]", '{"recipe": 3}', "{"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(RecipeError, match=r"manifest\.json: not the manifest of a run"):
            load(tmp_path / "manifest.json", registry=zoo)


BAD_OVERRIDES = [
    (
        "optimizer.clip=-1",
        "override 'optimizer.clip=-1': rl.optimizer.clip: found -1, allowed: a number above 0 and below 1",
    ),
    ("optimizer.clp=1", "rl.optimizer.clp: PPO has no such field. Did you mean 'clip'?"),
    (
        "optimizer=pqo",
        "override 'optimizer=pqo': rl.optimizer.name: there is no optimizer 'pqo'. Did you mean 'ppo' or 'dpo'?",
    ),
    ("optimizer.kl=high", 'rl.optimizer.kl: found "high" (a string), allowed: a number'),
    ("policy.max_new_tokens=0", "sft.policy.max_new_tokens: found 0, allowed: an integer at least 1"),
    ("optimzer.clip=1", "'optimzer' is neither a stage nor a part of one. Did you mean 'optimizer'?"),
    ("rl.optimzer.clip=1", "'optimzer' is no part of a stage. Did you mean 'optimizer'?"),
    ("rl=ppo", "a stage is no value"),
    ("optimizer.clip", "expected key=value"),
    ("optimizer..clip=1", "expected a key with dots"),
    ("policy.betas=[1,", "'[1,' is not a TOML value"),
    ("reward.weight=2", "rl.reward has 2 entries; say which: reward.0 (judge), reward.1 (length)"),
    ("reward.2.weight=2", "rl.reward.2: there are only 2, counted from 0"),
    ("reward.1.weight=x", 'rl.reward.1.weight: found "x" (a string), allowed: a number'),
    ("reward.0.model=stage:rl", "rl.reward.0.model: 'stage:rl' is no earlier stage"),
    ("rl.policy.model=stage:later", "rl.policy.model: 'stage:later' is no earlier stage. Known: sft."),
    ("seed=1.5", "sft.seed: found 1.5, allowed: an integer at least 0"),
    (
        "schedule.decay=cos",
        "rl.schedule.decay: found \"cos\" (a string), allowed: one of 'constant', 'linear', 'cosine'",
    ),
    ("evaluate.n=0", "rl.evaluate.n: found 0, allowed: an integer at least 1"),
    ("data.hedout=0.2", "sft.data.hedout: Data has no such field. Did you mean 'heldout' or"),
    ("task=shopp", "sft.task.name: there is no task 'shopp'. Did you mean 'shop'?"),
]


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES, ids=[each[0] for each in BAD_OVERRIDES])
def test_an_error_names_the_override(override: str, message: str, zoo: Registry, rlhf: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(rlhf, [override], registry=zoo)
    assert str(caught.value).startswith(f"override {override!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"policy": print}, "policy 'sft.policy': print has no load"),
        ({"policy": Tiny}, "sft.policy: found <type object>, allowed: a table or a name"),
        ({"reward": [3]}, "rl.reward: found 3, allowed: a table or a name"),
        ({"optimizer.kl": object()}, "rl.optimizer.kl: found <object object>, allowed: a number"),
        ({"schedule": object()}, "rl.schedule: found <object object>, allowed: a table"),
        ({"optimizer.kl": None}, "rl.optimizer.kl: found nothing, allowed: a number"),
    ],
)
def test_errors_of_live_objects(overrides: dict[str, Any], message: str, zoo: Registry, rlhf: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(rlhf, overrides, registry=zoo)
    assert str(caught.value).startswith("override '")
    assert message in str(caught.value)


def test_a_part_of_a_broken_plugin(zoo: Registry, rlhf: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import gone_xyz\nimport alignzoo\nfrom x import Mine\n"
        "@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.optimizer('mine', Mine)\n"
    )
    zoo.add_file(tmp_path / "broken.py")
    with pytest.raises(
        PluginError, match=r"(?s)override 'optimizer=mine': rl\.optimizer\.name: .*Install the package that has it"
    ):
        load(rlhf, ["optimizer=mine"], registry=zoo)


def test_an_annotation_that_cannot_be_resolved(zoo: Registry, rlhf: Path, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport alignzoo\n"
        "@dataclass\nclass Odd:\n    model: Gone = None\n    def load(self, needs): ...\n"
        "@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.policy('odd', Odd)\n"
    )
    zoo.add_file(tmp_path / "typed.py")
    with pytest.raises(AlignzooError, match=r"Odd: an annotation cannot be resolved, name 'Gone' is not defined"):
        load(rlhf, ["policy=odd"], registry=zoo)


# --- lines ----------------------------------------------------------------------------------------------------


def test_the_line_of_every_key() -> None:
    text = '''\
a = 1 # [x]
"b c".d = """x
] # y"""""
'e' = [1,
 {f = "}", g = {h = 1, "i" = 2}}, 'x#',
 []
]
[t]   # t = 1
k = 1979-05-27 07:32:00
s = "\\"]"
[[stage]]
[stage.opt]
c = 2
[[stage]]
reward = [{a = 1},
   {b = 2}]
[[stage.r]]
x = 1
[[stage.r]]
y.z = 1'''
    assert key_lines(text.replace("\n", "\r\n")) == key_lines(text)
    lines = key_lines(text)
    assert lines["a",] == 1
    assert lines["b c", "d"] == 2
    assert lines["e",] == 4
    assert lines["e", 1, "g", "i"] == 5
    assert lines["e", 3] == 6
    assert lines["t",] == 8
    assert lines["t", "k"] == 9
    assert lines["t", "s"] == 10
    assert lines["stage", 0] == 11
    assert lines["stage", 0, "opt"] == 12
    assert lines["stage", 0, "opt", "c"] == 13
    assert lines["stage", 1] == 14
    assert lines["stage", 1, "reward", 1, "b"] == 16
    assert lines["stage", 1, "r", 1, "y", "z"] == 20
    assert ("stage", 1, "opt") not in lines


def test_every_key_of_a_recipe_has_a_line() -> None:
    import tomllib

    def keys(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        found = [path] if path else []
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return found + [key for name, each in items for key in keys(each, (*path, name))]

    assert set(keys(tomllib.loads(RLHF))) == set(key_lines(RLHF))
