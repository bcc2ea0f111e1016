"""A part within a part: a reward's judge is a table with a name, checked like any other part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import pytest
from annotated_types import Ge

import alignzoo
from alignzoo import Judge, Policy, Question, RecipeError, Verdict, Writer
from alignzoo.recipe import load
from alignzoo.recipe.parts import describe
from alignzoo.registry import Registry

RECIPE = """\
task = "world"
policy = { name = "plain", model = "start" }

[[stage]]
name = "sft"
optimizer = "still"
sampler = "given"

[[stage]]
name = "rl"
optimizer = "still"
sampler = "given"
reward = { name = "asked", judge = { name = "fixed", answer = 0.25 } }
"""


@dataclass(frozen=True)
class Fixed:
    """Always the same."""

    answer: Annotated[float, Ge(0)] = 0.5
    """What it answers."""
    model: str = ""
    """A model, only to be filled in."""

    def judge(self, questions: Sequence[Question], policy: Policy | None) -> list[Verdict]:
        return [Verdict("value", self.answer)] * len(questions)


@dataclass(frozen=True)
class Scribe(Fixed):
    """A judge that can write."""

    def write(self, conversations: Any, policy: Any, *, seeds: Any) -> list[str]:
        return [""] * len(conversations)


@dataclass(frozen=True)
class Asked:
    """A reward with a judge, and perhaps a writer."""

    judge: Judge
    """Who is asked."""
    writer: Writer | None = None
    """Who writes."""

    def score(self, groups: Any, policy: Any) -> Any: ...


@dataclass(frozen=True)
class WithDefault:
    """A reward whose judge need not be given."""

    judge: Judge = Fixed(0.125)

    def score(self, groups: Any, policy: Any) -> Any: ...


@dataclass(frozen=True)
class Still:
    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def prepare(self, batch: Any) -> Any: ...
    def loss(self, batch: Any, out: Any) -> Any: ...


@dataclass(frozen=True)
class Given:
    online: ClassVar[bool] = False

    def sample(self, prompts: Any, policy: Any, *, seeds: Any) -> Any: ...


@dataclass(frozen=True)
class Plain:
    model: str = ""

    def load(self, needs: Any) -> Any: ...


@dataclass(frozen=True)
class World:
    policy: ClassVar[str] = "sft"
    base: ClassVar[str] = "base"
    reward: ClassVar[Any] = ({"name": "asked", "judge": "fixed"},)

    def data(self, kind: str, split: str) -> Any: ...
    def gold(self, prompt: Any, completion: Any) -> Any: ...


class Plugin:
    @alignzoo.hookimpl
    def alignzoo_register(self, zoo: Any) -> None:
        zoo.judge("fixed", Fixed)
        zoo.judge("scribe", Scribe)
        zoo.reward("asked", Asked)
        zoo.reward("with-default", WithDefault)
        zoo.optimizer("still", Still)
        zoo.sampler("given", Given)
        zoo.policy("plain", Plain)
        zoo.task("world", World)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "")
    registry = Registry()
    registry.add(Plugin(), "nested")
    return registry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "nested.toml"
    file.write_text(RECIPE)
    return file


def reward(zoo: Registry, path: Path, *overrides: Any) -> Any:
    return load(path, list(overrides), registry=zoo).stages[-1].rewards[0].source


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Asked(Fixed(0.25))),
        (["reward.judge.answer=0.75"], Asked(Fixed(0.75))),
        (["rl.reward.0.judge.answer=0.75"], Asked(Fixed(0.75))),
        (["reward.judge=scribe"], Asked(Scribe())),
        (["reward.judge=fixed"], Asked(Fixed(0.25))),  # the same part, so its settings stay
        (["reward.judge=scribe", "reward.judge.answer=1.0"], Asked(Scribe(1.0))),
        (["reward.judge={name='scribe', answer=1.0}"], Asked(Scribe(1.0))),
        (["reward={name='asked', judge='scribe'}"], Asked(Scribe())),
        (["reward.writer=scribe", "reward.writer.answer=0.0"], Asked(Fixed(0.25), Scribe(0.0))),
        ([("reward.judge", Fixed(0.125))], Asked(Fixed(0.125))),
        ([("reward", Asked(Fixed(0.125)))], Asked(Fixed(0.125))),
    ],
)
def test_a_part_in_a_field(overrides: list[Any], expected: Asked, zoo: Registry, path: Path) -> None:
    assert reward(zoo, path, *overrides) == expected


def test_a_tasks_reward_may_name_its_judge_alone(zoo: Registry, path: Path) -> None:
    assert load(path, registry=zoo).stages[0].task_rewards[0].source == Asked(Fixed())


def test_what_is_resolved_reads_back(zoo: Registry, path: Path, tmp_path: Path) -> None:
    recipe = load(path, ["reward.writer=scribe"], registry=zoo)
    assert recipe.resolved["stage"][-1]["reward"] == [
        {
            "name": "asked",
            "judge": {"name": "fixed", "answer": 0.25, "model": ""},
            "writer": {"name": "scribe", "answer": 0.5, "model": ""},
            "weight": 1.0,
        }
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved}))
    again = load(tmp_path / "manifest.json", registry=zoo)
    assert again == recipe and again.resolved == recipe.resolved


def test_a_default_part_stays_the_default(zoo: Registry, path: Path, tmp_path: Path) -> None:
    recipe = load(path, ["reward=with-default"], registry=zoo)
    assert recipe.stages[-1].rewards[0].source == WithDefault()
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved}))
    assert load(tmp_path / "manifest.json", registry=zoo) == recipe


@pytest.mark.parametrize(("reference", "model"), [("stage:sft", "runs/sft"), ("task:base", "base")])
def test_a_reference_within_a_part_is_filled(reference: str, model: str, zoo: Registry, path: Path) -> None:
    stage = load(path, [f"reward.judge.model={reference}"], registry=zoo).stages[-1]
    assert stage.with_outputs({"sft": "runs/sft"}).rewards[0].source == Asked(Fixed(0.25, model))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward.judge.anwser=1", r"rl\.reward\.judge\.anwser: Fixed has no such field. Did you mean 'answer'\?"),
        (
            "reward.judge.answer=high",
            r'rl\.reward\.judge\.answer: found "high" \(a string\), allowed: a number at least',
        ),
        ("reward.judge=fixd", r"rl\.reward\.judge\.name: there is no judge 'fixd'. Did you mean 'fixed'\?"),
        ("evaluate.decoding={temperature=-1}", r"decoding\.temperature: found -1, allowed: a number above 0$"),
        ("reward.judge=3", r"rl\.reward\.judge: found 3, allowed: a table or a name"),
        ("reward.judge.name=asked", r"there is no judge 'asked'.*\n'asked' is a reward"),
        ("reward.writer=fixed", r"rl\.reward\.writer: found <Fixed object>, allowed: a judge that can also write"),
        ("reward.writer.answer=1", r"rl\.reward\.writer has no name. Known: fixed, scribe"),
        ("reward.judge.model=stage:sfd", r"rl\.reward\.judge\.model: 'stage:sfd' is no earlier stage"),
        ("reward={name='asked'}", r"rl\.reward\.judge is missing; Asked needs it: a judge: a name, or a table"),
    ],
)
def test_errors_say_where_and_what(override: str, message: str, zoo: Registry, path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        reward(zoo, path, override)


def test_an_object_that_is_no_judge(zoo: Registry, path: Path) -> None:
    with pytest.raises(RecipeError, match="SimpleNamespace has no judge"):
        reward(zoo, path, ("reward.judge", SimpleNamespace()))


def test_a_live_judge_is_named_in_the_manifest_and_asked_for_again(zoo: Registry, path: Path, tmp_path: Path) -> None:
    class Live:
        def judge(self, questions: Any, policy: Any) -> list[Verdict]:
            return []

    recipe = load(path, [("reward.judge", Live())], registry=zoo)
    assert recipe.resolved["stage"][-1]["reward"][0]["judge"] == "<Live object>"
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved}))
    with pytest.raises(RecipeError, match="was a live object"):
        load(tmp_path / "manifest.json", registry=zoo)


def test_show_says_what_such_a_field_takes() -> None:
    assert describe(Judge) == "a judge: a name, or a table with one"
    assert describe(Writer | None) == "a judge that can also write: a name, or a table with one"
