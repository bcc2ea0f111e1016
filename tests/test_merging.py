"""Stages that merge models: the arithmetic by hand, and the model that such a stage leaves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import alignzoo
from alignzoo.errors import ModelError, RecipeError
from alignzoo.recipe import load
from alignzoo.recipe.merge import Merge, slerp
from alignzoo.registry import Registry

BASE = {"w": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.5])}
ONE = {"w": torch.tensor([2.0, 0.0]), "b": torch.tensor([0.5])}
TWO = {"w": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.5])}


def merged(**settings: object) -> dict[str, list[float]]:
    part = Merge(("one", "two"), **settings)  # type: ignore[arg-type]
    return {name: each.tolist() for name, each in part.merged(BASE, [ONE, TWO]).items()}


def test_the_average_of_models_and_a_step_back() -> None:
    assert merged() == {"w": [1.5, 0.5], "b": [1.0]}
    assert merged(weights=(0.25, 0.75)) == {"w": [1.25, 0.75], "b": [1.25]}
    assert merged(weights=(0.5, 0.25)) == {"w": [1.5, 0.25], "b": [0.75]}  # a quarter of the way back
    assert merged(weights=(0.0, 0.0)) == {name: each.tolist() for name, each in BASE.items()}


def test_slerp_of_task_vectors() -> None:
    # w: a right angle, sin 45° of each; b: one of them is 0, and so it is linear
    half = math.sqrt(0.5)
    found = merged(method="slerp")
    assert found["w"] == pytest.approx([1 + half, half]) and found["b"] == [1.0]
    assert merged(method="slerp", weights=(1.0, 0.0))["w"] == pytest.approx([2.0, 0.0])
    one, two = torch.tensor([3.0, 0.0]), torch.tensor([1.8, 2.4])
    for share in (0.0, 0.3, 1.0):
        a, b = slerp(one, two, share)
        assert float((a * one + b * two).norm()) == pytest.approx(3.0)  # the length of both is kept
    assert slerp(one, one, 0.3) == (0.7, 0.3)


RECIPE = """
task = "sort"
policy = { name = "hf", model = "task:policy", max_new_tokens = 8 }
data = { kind = "demonstrations" }
optimizer = "sft"
schedule = { prompts = 2, lr = 4e-4 }
evaluate = { prompts = 8 }

[[stage]]
name = "one"
schedule = { steps = 1 }

[[stage]]
name = "two"
seed = 1
schedule = { steps = 1 }

[[stage]]
name = "soup"
optimizer = { name = "merge", models = ["stage:one", "stage:two"] }
"""


@pytest.mark.slow
def test_a_stage_leaves_the_average_as_a_model_with_a_card(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "soup.toml").write_text(RECIPE)
    result = alignzoo.run(tmp_path / "soup.toml", out=tmp_path / "run")
    one, two, soup = (load_file(tmp_path / f"run/models/{name}/model.safetensors") for name in ("one", "two", "soup"))
    for name, tensor in soup.items():
        expected = (one[name].double() + two[name].double()) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(one[name], two[name]) for name in one)
    done = result.stages[-1]
    assert done.optimizer == "merge" and done.before["accuracy"] >= 0 and "accuracy" in done.after
    assert "merge" in (tmp_path / "run/models/soup/README.md").read_text()
    again = alignzoo.run(tmp_path / "soup.toml", out=tmp_path / "run", resume=True)
    assert again.stages[-1].after == done.after


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ('{ name = "merge", models = [] }', "models is empty"),
        ('{ name = "merge", models = ["stage:one"], method = "slerp" }', "slerp goes between two"),
        ('{ name = "merge", models = ["stage:one"], weights = [0.5, 0.5] }', "weights has 2 numbers for 1 models"),
        ('{ name = "merge", models = ["stage:three"] }', "is no earlier stage"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused(tmp_path: Path, optimizer: str, told: str) -> None:
    registry = Registry()
    registry.load_all()
    text = RECIPE.replace('{ name = "merge", models = ["stage:one", "stage:two"] }', optimizer)
    (tmp_path / "soup.toml").write_text(text)
    with pytest.raises(RecipeError, match=told):
        load(str(tmp_path / "soup.toml"), registry=registry)


def test_models_of_other_shapes_are_refused() -> None:
    from alignzoo.training.merging import _same

    with pytest.raises(ModelError, match=r"other cannot be merged .* first 'w', of shape \(3,\) there and \(2,\) here"):
        _same(BASE, {**BASE, "w": torch.zeros(3)}, "other")
