"""Names of alignzoo 0.1: whoever still has one, a plugin, a policy, a manifest, is told what stands in its place."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import alignzoo
from alignzoo import former, interfaces
from alignzoo.batching import collate
from alignzoo.errors import PluginError, RecipeError
from alignzoo.policies import MEMBERS, lacking, loaded
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.testing import ConformanceError, ToyPolicy, check_optimizer, check_policy
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Score, Terms

CHANGES = Path(__file__).parents[1] / "docs" / "changes.md"


@dataclass(frozen=True)
class Plain:
    """A loss of the log-probabilities."""

    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        assert out.logprobs is not None
        return Terms(-out.logprobs)


class Ungroups(Plain):
    """One of 0.1, for which rows were groups."""

    def prepare(self, batch: Batch) -> Batch:
        return batch.ungroup()  # type: ignore[attr-defined, no-any-return]


# --- the table ----------------------------------------------------------------------------------------------------


def test_what_is_called_former_is_gone_and_stands_in_the_list_of_changes() -> None:
    page = CHANGES.read_text(encoding="utf-8")
    for module in former.MODULES:
        assert importlib.util.find_spec(module) is None
    for name in former.NAMES:
        assert not hasattr(interfaces, name)
    for name in former.POLICY_METHODS:
        assert name not in MEMBERS
    members = [name for of in former.MEMBERS.values() for name in of]
    assert not {"ungroup", "chunks"} & set(dir(Batch)) and "room" not in interfaces.Outline.__dataclass_fields__
    for name in (*former.MODULES, *former.NAMES, *former.POLICY_METHODS, *members, *former.VALUES):
        assert name.rpartition(".")[2] in page, f"docs/changes.md does not name {name}"


def test_other_errors_are_left_as_they_are() -> None:
    for error in (ModuleNotFoundError("No module named 'collate'", name="collate"), KeyError("reference")):
        assert former.advice(error) == ""
    with pytest.raises(AttributeError) as raised:
        "text".reference  # type: ignore[attr-defined]  # noqa: B018
    assert former.advice(raised.value) == ""


# --- plugins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "now"),
    [
        ("from alignzoo.collate import collate", "alignzoo.batching"),
        ("import alignzoo.room", "alignzoo.microbatch"),
        ("from alignzoo import filling", "alignzoo.training.passes"),
        ("from alignzoo.interfaces import HasRoom", "PolicyInfo.tokens_per_pass"),
        ("from alignzoo import interfaces\ninterfaces.HasPieces", "PolicyInfo.token_strings"),
        ("from alignzoo.interfaces import Outline\nOutline(room=1)", "tokens_per_pass"),
    ],
)
def test_a_plugin_that_imports_what_is_gone_is_told_where_it_is(line: str, now: str, tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text(f"{line}\n")
    registry = Registry()
    with pytest.raises(PluginError, match=r"was alignzoo 0\.1's.* now it is .*docs/changes\.md") as raised:
        registry.add_file(path)
    assert now in str(raised.value)


def test_an_import_in_another_module_of_the_plugin_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old_losses.py").write_text("from alignzoo.collate import fill\n")
    (tmp_path / "old_plugin.py").write_text(
        "import alignzoo\n\n@alignzoo.hookimpl\n"
        "def alignzoo_register(zoo):\n    zoo.optimizer('old', 'old_losses:Old')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    registry.add_file(tmp_path / "old_plugin.py")
    with pytest.raises(PluginError, match=r"now it is alignzoo\.batching"):
        registry.get("optimizer", "old")


def added(part: object) -> Registry:
    class Plugin:
        @alignzoo.hookimpl
        def alignzoo_register(self, zoo: Registry) -> None:
            zoo.optimizer("old", part)  # type: ignore[attr-defined]

    registry = Registry()
    registry.add(Plugin())
    return registry


def test_an_optimizer_that_was_online_by_its_columns_has_to_say_so() -> None:
    @dataclass(frozen=True)
    class Clipped(Plain):
        needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "old_logprobs"})

    with pytest.raises(PluginError, match=r"online: ClassVar\[bool\] = True"):
        load("old", registry=added(Clipped))

    class Offline(Clipped):
        online: ClassVar[bool] = False

    (stage,) = load("old", registry=added(Offline)).stages
    assert not stage.sampler.online


def test_an_optimizer_that_trained_a_reward_model_by_its_columns_has_to_say_so() -> None:
    @dataclass(frozen=True)
    class Scores(Plain):
        needs: ClassVar[frozenset[str]] = frozenset({"scores"})

    with pytest.raises(PluginError, match=r'trains: ClassVar\[str\] = "reward-model"'):
        added(Scores)

    class Declares(Scores):
        trains: ClassVar[str] = "reward-model"

    added(Declares)


def test_the_kit_says_what_stands_in_the_place_of_a_former_method() -> None:
    with pytest.raises(ConformanceError, match=r"Batch\.ungroup was alignzoo 0\.1's; now it is nothing: a minibatch"):
        check_optimizer(Ungroups())


def test_a_traceback_ends_with_what_stands_in_the_place_of_a_former_name() -> None:
    group = Group(Prompt("a"), (1,), (Completion(text="b", tokens=(2,)),), (Score(1.0),))
    batch = collate([group])

    @former.noted
    def chunks() -> None:
        batch.chunks()  # type: ignore[attr-defined]

    @former.noted
    def reference() -> None:
        with ToyPolicy().reference():  # type: ignore[attr-defined]
            pass

    for call, now in ((chunks, "alignzoo.microbatch.cut"), (reference, 'answering("ref")')):
        with pytest.raises(AttributeError) as raised:
            call()
        (note,) = raised.value.__notes__
        assert now in note


# --- policies -----------------------------------------------------------------------------------------------------


class Old:
    """A policy of 0.1."""

    device = torch.device("cpu")
    encode: Callable[..., None]
    generate = forward = parameters = state = restore = save = encode = lambda self: None  # type: ignore[assignment]

    def reference(self) -> None: ...

    def room(self) -> int:
        return 0


@dataclass(frozen=True)
class OldSpec:
    """Its settings."""

    def load(self, needs: frozenset[str]) -> Old:
        return Old()


def test_a_policy_of_the_former_contract_is_refused_with_the_new_names() -> None:
    with pytest.raises(PluginError) as raised:
        loaded(OldSpec(), frozenset())  # type: ignore[arg-type]
    told = str(raised.value)
    lacks = told.partition("has no ")[2].partition(";")[0].split(", ")
    assert lacks == [name for name in MEMBERS if not hasattr(Old(), name)] and {"answering", "info", "step"} < set(
        lacks
    )
    assert "inherit alignzoo.gradients.TorchTraining" in told
    assert 'reference() is answering("ref") now' in told and "room() is info().tokens_per_pass now" in told
    with pytest.raises(ConformanceError, match=r"reference\(\) is answering"):
        check_policy(OldSpec())  # type: ignore[arg-type]


def test_a_policy_of_the_present_contract_is_taken() -> None:
    assert lacking(ToyPolicy()) == ""


# --- recipes ------------------------------------------------------------------------------------------------------


def test_a_manifest_whose_rewards_never_stop_it_is_told_how_never_is_written_now(tmp_path: Path) -> None:
    recipe = load("grpo", ["task=sort", "evaluate.prompts=0"], registry=Registry()).resolved
    (stage,) = recipe["stage"]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"recipe": recipe | {"stage": [stage | {"schedule": {"reward_stop": float("inf")}}]}}))
    with pytest.raises(RecipeError, match=r"reward_stop: found inf, .*inf stood for never; .*null in a manifest"):
        load(path, registry=Registry())
    path.write_text(json.dumps({"recipe": recipe | {"stage": [stage | {"schedule": {"reward_stop": None}}]}}))
    assert load(path, registry=Registry()).stages[0].schedule.reward_stop is None
